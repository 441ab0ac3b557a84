/*
order: 60
columns:  # a row per map of an annotated image
  object_share: FLOAT  # share of the view that its objects cover
  pointing_game: BOOLEAN
  energy_in_box: FLOAT
  weighting_game: FLOAT  # null without a mask
  average_precision: FLOAT  # null without a mask
  pixel_iou: FLOAT[]  # at each of ttame_core.metrics.localization.THRESHOLDS
  box_iou: FLOAT[]  # of the contour with the largest area, at each of the same thresholds
  # In turn, a level from 0 to 255 from which on the IoU of that contour's box is at least 30, 50 or
  # 70 %, and a level from which on it is not; then the same for the contour that fits best.
  largest_found_30: INTEGER[]
  largest_found_50: INTEGER[]
  largest_found_70: INTEGER[]
  best_found_30: INTEGER[]
  best_found_50: INTEGER[]
  best_found_70: INTEGER[]
metrics:
  pointing_game*: {better: higher, unit: "%", description: the map's maximum is on the object}
  energy_in_box*: {better: higher, unit: "%", description: share of the map that lies in the boxes}
  weighting_game*:
    {better: higher, unit: "%", principal: false,
     description: share of the map that lies on the object}
  box_iou*:
    {better: higher, unit: "%", description: overlap of the map's box and the annotated one}
  pixel_iou*: {better: higher, unit: "%", principal: false, description: overlap of masks}
  max_box_acc*:
    {better: higher, unit: "%", principal: false, description: images whose box is found}
  average_precision*:
    {better: higher, unit: "%", principal: false, description: average precision of the pixels of the object}
*/
-- The agreement of maps with the annotated objects of each image, in percent; higher is better.
-- The boxes and masks of a map depend on a threshold, which is the same for all maps of a dataset,
-- backbone and explainer. For box_iou and pixel_iou (means of the IoU) it is the one with the best
-- mean, or 0.2 and 0.5. max_box_acc@δ counts images whose box, that of the contour with the largest
-- area, reaches an IoU of δ. max_box_acc_v2 does so with the contour that fits best, and is the mean
-- over δ of 0.3, 0.5 and 0.7. Both take the best level for each δ.
WITH located AS NOT MATERIALIZED (FROM localization WHERE target = predicted),
thresholds AS (
    SELECT dataset, backbone, explainer, place, avg(box) AS box, avg(pixel) AS pixel
    FROM (
        SELECT dataset, backbone, explainer, unnest(box_iou) AS box, unnest(pixel_iou) AS pixel,
               generate_subscripts(box_iou, 1) AS place
        FROM located
    )
    GROUP BY ALL
),
-- The positions of the best thresholds; among equals the lowest.
best AS (
    SELECT dataset, backbone, explainer,
           first_best(list(box ORDER BY place)) AS box,
           first_best(list(pixel ORDER BY place)) AS pixel
    FROM thresholds GROUP BY ALL
),
-- The change at a level: how many more boxes are found from it on than just below it.
steps AS (
    SELECT dataset, backbone, explainer, test, level, sum(step) AS step
    FROM (
        SELECT dataset, backbone, explainer, test, unnest(levels) AS level,
               2 * (generate_subscripts(levels, 1) % 2) - 1 AS step
        FROM (FROM located UNPIVOT (levels FOR test IN (
            largest_found_30, largest_found_50, largest_found_70,
            best_found_30, best_found_50, best_found_70
        )))
    )
    GROUP BY ALL
),
-- The best level for each column of levels; among equals the lowest.
best_levels AS (
    SELECT dataset, backbone, explainer, map_from_entries(list((test, level))) AS best_level
    FROM (
        SELECT dataset, backbone, explainer, test, arg_max(level, (images, -level)) AS level
        FROM (
            SELECT *, sum(step) OVER (
                PARTITION BY dataset, backbone, explainer, test ORDER BY level
            ) AS images
            FROM steps
        )
        GROUP BY ALL
    )
    GROUP BY ALL
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
    1e2 * found_at(largest_found_30, best_level['largest_found_30']) AS "max_box_acc@0.3",
    1e2 * found_at(largest_found_50, best_level['largest_found_50']) AS "max_box_acc@0.5",
    1e2 * found_at(largest_found_70, best_level['largest_found_70']) AS "max_box_acc@0.7",
    1e2 / 3 * (found_at(best_found_30, best_level['best_found_30'])
               + found_at(best_found_50, best_level['best_found_50'])
               + found_at(best_found_70, best_level['best_found_70'])) AS max_box_acc_v2
FROM located JOIN best USING (dataset, backbone, explainer)
LEFT JOIN best_levels USING (dataset, backbone, explainer)
