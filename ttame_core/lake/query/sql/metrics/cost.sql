-- Seconds and passes through the classifier that each map took, its share of the shared pass included.
SELECT dataset, backbone, explainer, key, seconds, forward_passes, backward_passes
FROM cost WHERE target = predicted
