-- Agreement with the annotated boxes of each image. box_iou is at one threshold for a whole data set,
-- backbone and explainer: the one that serves it best.
SELECT
    dataset, backbone, explainer, key, unnest(['pointing_game', 'energy_in_box']) AS metric,
    100.0 * unnest([pointing_game::INT, energy_in_box]) AS value
FROM localization WHERE target = predicted
UNION ALL
SELECT dataset, backbone, explainer, key, 'box_iou', 100.0 * box_iou[place]
FROM localization JOIN (
    SELECT dataset, backbone, explainer, place FROM (
        SELECT dataset, backbone, explainer, unnest(box_iou) AS overlap,
               generate_subscripts(box_iou, 1) AS place
        FROM localization WHERE target = predicted
    )
    GROUP BY dataset, backbone, explainer, place
    QUALIFY row_number() OVER (
        PARTITION BY dataset, backbone, explainer ORDER BY avg(overlap) DESC, place
    ) = 1
) USING (dataset, backbone, explainer)
WHERE target = predicted
