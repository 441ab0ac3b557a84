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
    SELECT backbone, count(*) AS images,
           arg_min(looked, row(-outside / explainers, value, md5(key)), 8) AS first
    FROM looked GROUP BY backbone
)
SELECT backbone, 'outside' AS kind, place, first[place].key AS key, first[place].value AS value,
       first[place].outside AS outside, first[place].explainers AS explainers, images
FROM placed, unnest(range(1, len(first) + 1)) AS places(place)
ORDER BY outside / explainers DESC, value, key, backbone
