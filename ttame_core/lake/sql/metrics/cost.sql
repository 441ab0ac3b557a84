-- Seconds and passes through the classifier that each map took, its share of the shared pass included.
SELECT
    dataset, backbone, explainer, key,
    unnest(['seconds', 'forward_passes', 'backward_passes']) AS metric,
    unnest([seconds, forward_passes, backward_passes])::DOUBLE AS value
FROM cost WHERE target = predicted
