/*
order: 70
columns:  # a row per map
  complexity: FLOAT
  sparseness: FLOAT
  thumbnail: FLOAT[196]  # 14×14, row by row, centred, of unit norm
metrics:
  complexity*: {better: lower, principal: false, description: how much of the image the map covers}
  sparseness*: {better: higher, principal: false, description: Gini coefficient of the map}
*/
-- The spread of each map, from 0 to 1. complexity is the mean of the map, and lower is better;
-- sparseness is its Gini index, and higher is better.
SELECT dataset, backbone, explainer, key, complexity, sparseness
FROM shape WHERE target = predicted
