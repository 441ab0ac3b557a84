-- How each map is spread, from 0 to 1. complexity: the mean of the map, the lower the better;
-- sparseness: its Gini index, the higher the better.
SELECT dataset, backbone, explainer, key, unnest(['complexity', 'sparseness']) AS metric,
       unnest([complexity, sparseness])::DOUBLE AS value
FROM shape WHERE target = predicted
