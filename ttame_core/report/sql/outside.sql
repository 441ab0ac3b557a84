-- Images on which three in four explainers' maps have their maximum outside every box: what else does the
-- classifier look at? First those on which most agree, then those with the least of the maps in the
-- boxes. value: the mean share of the maps that lies in the boxes, percent. images: how many there are
-- of that backbone.
WITH looked AS (
    SELECT backbone, key, count(*) FILTER (NOT pointing_game) AS outside, count(*) AS explainers,
           1e2 * avg(energy_in_box) AS value
    FROM localization
    WHERE dataset = getvariable('dataset') AND target = predicted
    AND list_contains(getvariable('backbones'), backbone)
    AND list_contains(getvariable('rivals'), explainer)
    GROUP BY backbone, key
    HAVING outside >= 0.75 * explainers
),
placed AS (
    SELECT *, count(*) OVER (PARTITION BY backbone) AS images,
           row_number() OVER (
               PARTITION BY backbone ORDER BY outside / explainers DESC, value, md5(key)
           ) AS place
    FROM looked
)
SELECT backbone, 'outside' AS kind, place, key, value, outside, explainers, images
FROM placed WHERE place <= 8
ORDER BY outside / explainers DESC, value, key, backbone
