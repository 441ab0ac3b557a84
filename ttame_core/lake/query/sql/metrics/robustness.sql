-- By what share of its norm each map changes at most while its image hardly does; the lower the better.
SELECT dataset, backbone, explainer, key, max_sensitivity
FROM robustness WHERE target = predicted
