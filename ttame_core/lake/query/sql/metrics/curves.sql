-- Area under the insertion and the deletion curve of each image, in percent. The fills of RISE go
-- without saying: a blurred image to insert into, black to delete to; others stand behind a slash.
SELECT
    dataset, backbone, explainer, key, curve AS metric,
    CASE WHEN (curve, fill) NOT IN (('insertion', 'blur'), ('deletion', 'zero')) THEN fill END AS fill,
    100 * auc::DOUBLE AS value
FROM curves WHERE target = predicted
