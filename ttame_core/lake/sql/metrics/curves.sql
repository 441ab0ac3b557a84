-- Area under the insertion and the deletion curve of each image. The fills of RISE go without
-- saying: a blurred image to insert into, black to delete to; others stand behind a slash.
SELECT
    dataset, backbone, explainer, key,
    curve || CASE WHEN (curve, fill) IN (('insertion', 'blur'), ('deletion', 'zero')) THEN ''
                  ELSE '/' || fill END AS metric,
    100 * auc::DOUBLE AS value
FROM curves WHERE target = predicted
