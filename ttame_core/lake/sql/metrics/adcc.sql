-- ADCC of each image in percent, and its coherency, from 0 to 1; the higher the better. Its complexity
-- is that of the family shape, its drop that of AD@100.
SELECT dataset, backbone, explainer, key, unnest(['ADCC', 'coherency']) AS metric,
       unnest([100.0 * ADCC(coherency, complexity, drop), coherency])::DOUBLE AS value
FROM adcc WHERE target = predicted
