/*
order: 60
columns:  # of a row per map of an annotated image
  object_share: FLOAT  # of the view, under its objects
  pointing_game: BOOLEAN
  energy_in_box: FLOAT
  weighting_game: FLOAT  # null without a mask
  average_precision: FLOAT  # null without a mask
  pixel_iou: FLOAT[]  # at each of ttame_core.metrics.localization.THRESHOLDS, like the next two
  box_iou: FLOAT[]  # of the largest component
  best_box_iou: FLOAT[]  # of the component that fits best
metrics:
  pointing_game*: {better: higher, unit: "%", description: the maximum lies on the object}
  energy_in_box*: {better: higher, unit: "%", description: share of the map that lies in the boxes}
  weighting_game*:
    {better: higher, unit: "%", principal: false,
     description: share of the map that lies on the object}
  box_iou*: {better: higher, unit: "%", description: overlap of boxes}
  pixel_iou*: {better: higher, unit: "%", principal: false, description: overlap of masks}
  max_box_acc*:
    {better: higher, unit: "%", principal: false, description: images whose box is found}
  average_precision*:
    {better: higher, unit: "%", principal: false, description: of the pixels of the object}
*/
-- Agreement with the annotated objects of each image, in percent; the higher the better.
-- The boxes and masks of a map depend on a threshold, which is one for a whole dataset, backbone and
-- explainer: for box_iou and pixel_iou (means of the IoU) the one that serves it best, or 0.2 and
-- 0.5; for max_box_acc@δ (images whose box reaches an IoU of δ; the box of the largest component) and
-- max_box_acc_v2 (the best component's; the mean over δ of 0.3, 0.5 and 0.7) the best for each δ.
WITH located AS NOT MATERIALIZED (FROM localization WHERE target = predicted),
thresholds AS (
    SELECT dataset, backbone, explainer, place,
           avg(box) AS box, avg(pixel) AS pixel,
           avg((box >= 0.3)::INT) AS box3, avg((box >= 0.5)::INT) AS box5,
           avg((box >= 0.7)::INT) AS box7,
           avg((best >= 0.3)::INT) AS best3, avg((best >= 0.5)::INT) AS best5,
           avg((best >= 0.7)::INT) AS best7
    FROM (
        SELECT dataset, backbone, explainer, unnest(box_iou) AS box, unnest(best_box_iou) AS best,
               unnest(pixel_iou) AS pixel, generate_subscripts(box_iou, 1) AS place
        FROM located
    )
    GROUP BY ALL
),
-- The places of the best thresholds; among equals the lowest.
best AS (
    SELECT dataset, backbone, explainer,
           first_best(list(box ORDER BY place)) AS box,
           first_best(list(pixel ORDER BY place)) AS pixel,
           first_best(list(box3 ORDER BY place)) AS box3,
           first_best(list(box5 ORDER BY place)) AS box5,
           first_best(list(box7 ORDER BY place)) AS box7,
           first_best(list(best3 ORDER BY place)) AS best3,
           first_best(list(best5 ORDER BY place)) AS best5,
           first_best(list(best7 ORDER BY place)) AS best7
    FROM thresholds GROUP BY ALL
)
SELECT
    dataset, backbone, explainer, key,
    1e2 * pointing_game::INT AS pointing_game,
    1e2 * energy_in_box AS energy_in_box,
    1e2 * weighting_game AS weighting_game,
    1e2 * average_precision AS average_precision,
    1e2 * box_iou[box] AS box_iou,
    1e2 * box_iou[4] AS "box_iou@0.2",
    1e2 * box_iou[10] AS "box_iou@0.5",
    1e2 * pixel_iou[pixel] AS pixel_iou,
    1e2 * pixel_iou[4] AS "pixel_iou@0.2",
    1e2 * pixel_iou[10] AS "pixel_iou@0.5",
    1e2 * (box_iou[box3] >= 0.3)::INT AS "max_box_acc@0.3",
    1e2 * (box_iou[box5] >= 0.5)::INT AS "max_box_acc@0.5",
    1e2 * (box_iou[box7] >= 0.7)::INT AS "max_box_acc@0.7",
    1e2 / 3 * ((best_box_iou[best3] >= 0.3)::INT + (best_box_iou[best5] >= 0.5)::INT
               + (best_box_iou[best7] >= 0.7)::INT) AS max_box_acc_v2
FROM located JOIN best USING (dataset, backbone, explainer)
