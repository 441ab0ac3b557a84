/*
order: 110
columns:  # of a row per map: its share of the batch, the shared forward pass included
  seconds: FLOAT
  forward_passes: FLOAT  # through the classifier
  backward_passes: FLOAT
metrics:
  seconds: {better: lower, unit: s, description: time per map}
  forward_passes:
    {better: lower, unit: passes, description: "through the classifier, per map"}
  backward_passes:
    {better: lower, unit: passes, principal: false,
     description: "through the classifier, per map"}
*/
-- Seconds and passes through the classifier that each map took, its share of the shared pass included.
SELECT dataset, backbone, explainer, key, seconds, forward_passes, backward_passes
FROM cost WHERE target = predicted
