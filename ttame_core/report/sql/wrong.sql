-- Wrong predictions, the most confident first. value: the probability, percent; images: how many wrong
-- ones that backbone has; sure: those of at least 90 %.
WITH placed AS (
    SELECT backbone, key, 1e2 * probability AS value,
           count(*) OVER (PARTITION BY backbone) AS images,
           count(*) FILTER (probability >= 0.9) OVER (PARTITION BY backbone) AS sure,
           row_number() OVER (PARTITION BY backbone ORDER BY probability DESC, md5(key)) AS place
    FROM predictions
    WHERE dataset = getvariable('dataset') AND label <> predicted
    AND list_contains(getvariable('backbones'), backbone)
)
SELECT backbone, 'wrong' AS kind, place, key, value, images, sure
FROM placed WHERE place <= 8
ORDER BY value DESC, key, backbone
