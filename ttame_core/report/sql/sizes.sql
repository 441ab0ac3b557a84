-- Localisation of small, medium and large objects: two metrics as in the view `by_object_size`
-- (ttame_core/lake/query/sql/object_sizes.sql), from a single reading of the scores.
WITH found AS (
    SELECT backbone, explainer, object_size(object_share) AS size,
           avg(1e2 * pointing_game::INT) AS pointing_game, count(pointing_game) AS pointed,
           avg(1e2 * energy_in_box) AS energy_in_box, count(energy_in_box) AS measured
    FROM localization
    WHERE dataset = getvariable('dataset') AND target = predicted
    AND list_contains(getvariable('backbones'), backbone)
    AND list_contains(getvariable('explainers'), explainer)
    GROUP BY ALL
)
SELECT backbone, explainer, metric, size, value, images
FROM (
    SELECT backbone, explainer, size,
           unnest(['pointing_game', 'energy_in_box']) AS metric,
           unnest([pointing_game, energy_in_box]) AS value,
           unnest([pointed, measured]) AS images
    FROM found
)
WHERE images > 0
ORDER BY backbone, explainer, metric, list_position(['small', 'medium', 'large'], size)
