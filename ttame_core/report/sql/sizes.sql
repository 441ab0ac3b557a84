-- How well maps find small, medium and large objects (ttame_core/lake/sql/object_sizes.sql).
SELECT backbone, explainer, metric, size, value, images
FROM by_object_size
WHERE dataset = getvariable('dataset') AND metric IN ('pointing_game', 'energy_in_box')
AND list_contains(getvariable('backbones'), backbone)
AND list_contains(getvariable('explainers'), explainer)
ORDER BY backbone, explainer, metric, list_position(['small', 'medium', 'large'], size)
