-- The three recorded images of each backbone on which explainers agree least, by the mean correlation
-- of pairs of their maps.
SELECT backbone, 'disputed' AS kind, place, key, value
FROM (
    SELECT backbone, key, avg(correlation) AS value,
           row_number() OVER (PARTITION BY backbone ORDER BY avg(correlation), md5(key)) AS place
    FROM disagreement
    WHERE dataset = getvariable('dataset') AND key IN (FROM recorded)
    AND list_contains(getvariable('backbones'), backbone)
    AND list_contains(getvariable('rivals'), explainer_a)
    AND list_contains(getvariable('rivals'), explainer_b)
    GROUP BY backbone, key
)
WHERE place <= 3
ORDER BY backbone, place
