-- Agreement with the annotated boxes of each image. box_iou is at one threshold for a whole data set,
-- backbone and explainer: the one that serves it best.
SELECT
    dataset, backbone, explainer, key,
    100.0 * pointing_game::INT AS pointing_game,
    100.0 * energy_in_box AS energy_in_box,
    100.0 * box_iou[place] AS box_iou
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
