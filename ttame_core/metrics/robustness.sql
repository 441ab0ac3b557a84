/*
order: 90
columns: {max_sensitivity: FLOAT}  # a row per map
metrics:
  max_sensitivity*: {better: lower, description: how far little noise moves the map}
*/
-- The largest change of each map, as a share of its norm, when its image hardly changes; lower is better.
SELECT dataset, backbone, explainer, key, max_sensitivity
FROM robustness WHERE target = predicted
