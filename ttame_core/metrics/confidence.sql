/*
order: 30
columns:  # a row per map, kept percentage and fill
  keep: FLOAT
  fill: VARCHAR
  p: FLOAT  # softmax of the target on the whole image
  p_masked: FLOAT  # softmax of the target on the masked image
metrics:
  AD@*:
    {better: lower, unit: "%", description: "average drop: confidence lost on the masked image"}
  IC@*:
    {better: higher, unit: "%", description: "increase in confidence: images on which it rises"}
  AG@*:
    {better: higher, unit: "%", principal: false,
     description: "average gain: missing confidence that is gained"}
*/
-- AD, IC and AG of each image at each kept percentage and fill.
SELECT
    dataset, backbone, explainer, key, keep AS level, nullif(fill, 'zero') AS fill,
    confidence_drop(p, p_masked) AS AD,
    confidence_rise(p, p_masked) AS IC,
    confidence_gain(p, p_masked) AS AG
FROM confidence WHERE target = predicted
