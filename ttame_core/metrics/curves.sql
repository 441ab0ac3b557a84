/*
order: 50
columns:  # of a row per map, curve and fill
  curve: VARCHAR
  fill: VARCHAR
  auc: FLOAT  # the area under the probabilities, in [0, 1]
  probabilities: FLOAT[]  # softmax of the target after each step, the first before any
metrics:
  insertion*:
    {better: higher, unit: "%", description: area under the curve as pixels are inserted}
  deletion*: {better: lower, unit: "%", description: area under the curve as pixels are deleted}
*/
-- Area under the insertion and the deletion curve of each image, in percent. The fills of RISE go
-- without saying: a blurred image to insert into, black to delete to; others stand behind a slash.
SELECT
    dataset, backbone, explainer, key, curve AS metric,
    CASE WHEN (curve, fill) NOT IN (('insertion', 'blur'), ('deletion', 'zero')) THEN fill END AS fill,
    100 * auc::DOUBLE AS value
FROM curves WHERE target = predicted
