/*
order: 70
columns:  # of a row per map
  complexity: FLOAT
  sparseness: FLOAT
  thumbnail: FLOAT[196]  # 14×14, row by row, centred, of unit norm
metrics:
  complexity*: {better: lower, principal: false, description: how much of the image the map covers}
  sparseness*: {better: higher, principal: false, description: Gini coefficient of the map}
*/
-- How each map is spread, from 0 to 1. complexity: the mean of the map, the lower the better;
-- sparseness: its Gini index, the higher the better.
SELECT dataset, backbone, explainer, key, complexity, sparseness
FROM shape WHERE target = predicted
