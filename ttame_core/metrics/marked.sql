/*
order: 75
columns:  # a row per map
  place: FLOAT[49]  # share of the map in each of 7×7 cells, row by row
  look: FLOAT[343]  # mean and deviation of red, green and blue, and grain: of each, the 49 cells
metrics:
  place_alike*:
    {principal: false, description: how alike the places of the maps of one class are}
  look_alike*:
    {principal: false, description: how alike what the maps of one class mark is beyond its pictures}
*/
-- How alike a map is to those of other images that are taken for the same class, less how alike it is
-- to those of all other classes; around 0 where classes do not differ. place_alike compares the maps,
-- by their correlation, from -2 to 2. look_alike compares what they mark: the numbers of the look, each
-- standardised over all images, weighted by the map, by the cosine. Pictures of one class may look
-- alike wherever one looks, as sky does: so the likeness is subtracted that is to be expected when maps
-- of other classes' images lie on the same pictures. Only classes with five images or more, and as many
-- of other classes, have values.
WITH own AS (
    SELECT dataset, backbone, explainer, key, predicted, place::DOUBLE[] AS place,
           look::DOUBLE[] AS look
    FROM marked WHERE target = predicted AND len(look) = 343  -- rows of older versions have seven
),
spread AS (
    SELECT dataset, backbone, explainer, list(mean ORDER BY number) AS means,
           list(greatest(deviation, 1e-6) ORDER BY number) AS deviations
    FROM (
        SELECT dataset, backbone, explainer, number, avg(value) AS mean,
               stddev_pop(value) AS deviation
        FROM (
            SELECT dataset, backbone, explainer, unnest(look) AS value,
                   generate_subscripts(look, 1) AS number
            FROM own
        )
        GROUP BY ALL
    )
    GROUP BY ALL
),
-- The maps of other classes: their mean and mean square in each cell.
others AS (
    SELECT dataset, backbone, explainer, predicted, any_value(images) AS images,
           any_value(rest) AS rest, list(mean ORDER BY cell) AS means,
           list(square ORDER BY cell) AS squares
    FROM (
        SELECT *, sum(images) OVER everywhere - images AS rest,
               (sum(total) OVER everywhere - total) / rest AS mean,
               (sum(squares) OVER everywhere - squares) / rest AS square
        FROM (
            SELECT dataset, backbone, explainer, predicted, cell, count(*) AS images,
                   sum(value) AS total, sum(value ^ 2) AS squares
            FROM (
                SELECT dataset, backbone, explainer, predicted, unnest(place) AS value,
                       generate_subscripts(place, 1) AS cell
                FROM own
            )
            GROUP BY ALL
        )
        WINDOW everywhere AS (PARTITION BY dataset, backbone, explainer, cell)
    )
    WHERE rest > 0 GROUP BY ALL
),
standardised AS (
    SELECT * EXCLUDE (look, means, deviations),
           list_transform(list_zip(look, means, deviations), lambda n: (n[1] - n[2]) / n[3]) AS look
    FROM own JOIN spread USING (dataset, backbone, explainer)
),
vectors AS (  -- compared are those of unit length
    SELECT dataset, backbone, explainer, key, predicted, 'place' AS aspect,
           list_transform(place, lambda p: p - 1.0 / 49) AS vector,
           sqrt(list_dot_product(vector, vector)) AS length
    FROM own
    UNION ALL
    SELECT dataset, backbone, explainer, key, predicted, 'look',
           list_transform(list_zip(look, flatten(list_resize([place], 7, place))),
                          lambda n: n[1] * n[2]) AS vector,
           sqrt(list_dot_product(vector, vector))
    FROM standardised
    UNION ALL
    SELECT dataset, backbone, explainer, key, predicted, 'expected',
           list_transform(list_zip(look, flatten(list_resize([means], 7, means))),
                          lambda n: n[1] * n[2]),
           sqrt(list_dot_product(list_transform(look, lambda n: n ^ 2),
                                 flatten(list_resize([squares], 7, squares))))
    FROM standardised JOIN others USING (dataset, backbone, explainer, predicted)
),
sums AS (
    SELECT dataset, backbone, explainer, predicted, aspect, list(total ORDER BY number) AS of_class,
           list(whole - total ORDER BY number) AS of_rest
    FROM (
        SELECT *, sum(total) OVER (
                   PARTITION BY dataset, backbone, explainer, aspect, number
               ) AS whole
        FROM (
            SELECT dataset, backbone, explainer, predicted, aspect, number, sum(value) AS total
            FROM (
                SELECT dataset, backbone, explainer, predicted, aspect,
                       unnest(vector) / greatest(length, 1e-6) AS value,
                       generate_subscripts(vector, 1) AS number
                FROM vectors
            )
            GROUP BY ALL
        )
    )
    GROUP BY ALL
),
alike AS (
    SELECT dataset, backbone, explainer, key, aspect,
           (list_dot_product(vector, of_class) / scale
            - list_dot_product(vector, vector) / scale ^ 2) / (images - 1)
           - list_dot_product(vector, of_rest) / scale / rest AS likeness
    FROM (FROM vectors SELECT *, greatest(length, 1e-6) AS scale)
    JOIN sums USING (dataset, backbone, explainer, predicted, aspect)
    JOIN others USING (dataset, backbone, explainer, predicted)
    WHERE images >= 5 AND rest >= 5
)
SELECT dataset, backbone, explainer, key,
       any_value(likeness) FILTER (aspect = 'place') AS place_alike,
       any_value(likeness) FILTER (aspect = 'look')
       - any_value(likeness) FILTER (aspect = 'expected') AS look_alike
FROM alike GROUP BY dataset, backbone, explainer, key
