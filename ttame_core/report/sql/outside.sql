-- Images on which at least three in four explainers' maps have their maximum outside every box: the
-- classifier may look at something else. Images on which more explainers agree come first, then images
-- with a smaller share of the maps in the boxes. value: mean share of the maps in the boxes, in percent.
-- images: number of such images of the backbone.
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
