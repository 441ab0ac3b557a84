-- The scores of the pictured images' maps: the probability on the masked image, and the share of the
-- map in the boxes. In: pictured (a row per backbone and key).
SELECT backbone, key, explainer,
       any_value(p_masked) AS p_masked, any_value(energy) AS energy, any_value(inside) AS inside
FROM (
    SELECT backbone, key, explainer, p_masked, NULL AS energy, NULL AS inside FROM confidence
    WHERE dataset = getvariable('dataset') AND target = predicted
    AND keep = getvariable('keep') AND fill = 'zero'
    UNION ALL
    SELECT backbone, key, explainer, NULL, 1e2 * energy_in_box, pointing_game FROM localization
    WHERE dataset = getvariable('dataset') AND target = predicted
)
WHERE (backbone, key) IN (SELECT (backbone, key) FROM pictured)
AND list_contains(getvariable('explainers'), explainer)
GROUP BY ALL
