/*
order: 90
columns: {max_sensitivity: FLOAT}  # of a row per map
metrics:
  max_sensitivity*: {better: lower, description: how far little noise moves the map}
*/
-- By what share of its norm each map changes at most while its image hardly does; the lower the better.
SELECT dataset, backbone, explainer, key, max_sensitivity
FROM robustness WHERE target = predicted
