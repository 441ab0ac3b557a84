/*
order: 80
columns:  # a row per map
  coherency: FLOAT
  complexity: FLOAT
  drop: FLOAT
metrics:
  ADCC*:
    {better: higher, unit: "%", description: "average drop, coherency and complexity in one"}
  coherency*: {better: higher, principal: false, description: the masked image gives the same map}
*/
-- ADCC of each image in percent, and its coherency, from 0 to 1; the higher the better. Its complexity
-- is that of the family shape, its drop that of AD@100.
SELECT dataset, backbone, explainer, key,
       100 * ADCC(coherency, complexity, drop) AS ADCC, coherency
FROM adcc WHERE target = predicted
