/*
order: 75
columns:  # a row per map
  place: FLOAT[49]  # the map at 7×7, row by row, centred, of unit norm
  look: FLOAT[7]  # of the marked tenth: mean and deviation of red, green and blue, and its grain
metrics:
  place_alike*:
    {principal: false, description: how alike the places of the maps of one class are}
  look_alike*:
    {principal: false, description: how alike what the maps of one class mark looks}
*/
-- How alike a map is to those of other images that are taken for the same class, less how alike it is
-- to those of all other classes; from -2 to 2, around 0 where classes do not differ. place_alike
-- compares the maps, by their correlation; look_alike compares what they mark: each of its seven
-- numbers is standardised over all images, and two looks are compared by the cosine. Only classes with
-- five images or more, and as many of other classes, have values.
WITH own AS (
    SELECT dataset, backbone, explainer, key, predicted, place, look FROM marked
    WHERE target = predicted
),
numbers AS (
    SELECT dataset, backbone, explainer, key, predicted, unnest(look)::DOUBLE AS value,
           generate_subscripts(look, 1) AS number
    FROM own
),
standardised AS (
    SELECT dataset, backbone, explainer, key, predicted, number,
           (value - avg(value) OVER everywhere)
           / greatest(stddev_pop(value) OVER everywhere, 1e-6) AS value
    FROM numbers WINDOW everywhere AS (PARTITION BY dataset, backbone, explainer, number)
),
vectors AS (
    SELECT dataset, backbone, explainer, key, predicted, 'look' AS aspect, number,
           value / greatest(1e-6, sqrt(sum(value ^ 2) OVER (
               PARTITION BY dataset, backbone, explainer, key, predicted
           ))) AS value
    FROM standardised
    UNION ALL
    SELECT dataset, backbone, explainer, key, predicted, 'place',
           generate_subscripts(place, 1), unnest(place)::DOUBLE
    FROM own
),
counts AS (
    SELECT DISTINCT dataset, backbone, explainer, predicted,
           count(*) OVER (PARTITION BY dataset, backbone, explainer, predicted) AS images,
           count(*) OVER (PARTITION BY dataset, backbone, explainer) AS whole
    FROM own
),
summed AS (
    SELECT *,
           sum(value) OVER (
               PARTITION BY dataset, backbone, explainer, aspect, number, predicted
           ) AS of_class,
           sum(value) OVER (PARTITION BY dataset, backbone, explainer, aspect, number) AS of_all
    FROM vectors
),
alike AS (
    SELECT dataset, backbone, explainer, key, predicted, aspect,
           sum(value * (of_class - value)) / (any_value(images) - 1)
           - sum(value * (of_all - of_class)) / (any_value(whole) - any_value(images)) AS likeness
    FROM summed JOIN counts USING (dataset, backbone, explainer, predicted)
    WHERE images >= 5 AND whole - images >= 5
    GROUP BY ALL
)
SELECT dataset, backbone, explainer, key,
       any_value(likeness) FILTER (aspect = 'place') AS place_alike,
       any_value(likeness) FILTER (aspect = 'look') AS look_alike
FROM alike GROUP BY dataset, backbone, explainer, key
