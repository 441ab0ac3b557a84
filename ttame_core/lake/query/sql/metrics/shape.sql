-- How each map is spread, from 0 to 1. complexity: the mean of the map, the lower the better;
-- sparseness: its Gini index, the higher the better.
SELECT dataset, backbone, explainer, key, complexity, sparseness
FROM shape WHERE target = predicted
