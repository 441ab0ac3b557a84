/*
order: 110
columns:  # a row per map: its share of the batch's cost, with the shared forward pass
  seconds: FLOAT
  forward_passes: FLOAT  # through the classifier
  backward_passes: FLOAT
metrics:
  seconds: {better: lower, unit: s, description: time per map}
  forward_passes:
    {better: lower, unit: passes, description: "passes through the classifier, per map"}
  backward_passes:
    {better: lower, unit: passes, principal: false,
     description: "passes backward through the classifier, per map"}
*/
-- The seconds and the passes through the classifier of each map, with its share of the shared pass.
SELECT dataset, backbone, explainer, key, seconds, forward_passes, backward_passes
FROM cost WHERE target = predicted
