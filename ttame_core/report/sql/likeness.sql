-- The mean correlation of an explainer's maps of two different images, from -1 to 1; 1 where it marks
-- the same place in all of them. It follows from the mean map: of n maps of unit norm, the sum over all
-- pairs is the square of the sum. At most 500 images.
-- In: own_thumbnails (the record's thumbnails.parquet), recorded.
WITH own AS (
    SELECT backbone, explainer, thumbnail FROM own_thumbnails
    WHERE key IN (SELECT key FROM recorded ORDER BY md5(key), key LIMIT 500)
),
places AS (
    SELECT backbone, explainer, unnest(thumbnail)::DOUBLE AS value,
           generate_subscripts(thumbnail, 1) AS place
    FROM own
),
means AS (
    SELECT backbone, explainer, place, avg(value) AS mean, sum(value * value) AS power,
           count(*) AS images
    FROM places GROUP BY ALL
)
SELECT backbone, explainer, max(images) AS images,
       (max(images) ^ 2 * sum(mean * mean) - sum(power))
       / nullif((max(images) - 1) * sum(power), 0) AS likeness
FROM means GROUP BY ALL HAVING max(images) > 1
ORDER BY backbone, explainer
