/*
order: 50
columns:  # a row per map, curve and fill
  curve: VARCHAR
  fill: VARCHAR
  auc: FLOAT  # the area under the probabilities, in [0, 1]
  probabilities: FLOAT[]  # softmax of the target, before the first and after each step
metrics:
  insertion*:
    {better: higher, unit: "%", description: confidence while the most relevant pixels are put in}
  deletion*: {better: lower, unit: "%", description: confidence while the most relevant pixels are taken out}
*/
-- The area under the insertion and the deletion curve of each image, in percent. The names of other
-- fills than RISE's (a blurred image for insertion, black for deletion) stand behind a slash.
SELECT
    dataset, backbone, explainer, key, curve AS metric,
    CASE WHEN (curve, fill) NOT IN (('insertion', 'blur'), ('deletion', 'zero')) THEN fill END AS fill,
    100 * auc::DOUBLE AS value
FROM curves WHERE target = predicted
