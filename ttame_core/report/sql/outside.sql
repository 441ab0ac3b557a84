-- Images on which at least three in four explainers' maps have their maximum off every annotated object:
-- the classifier may look at something else. Right predictions come first, as maps of wrong ones explain
-- another class than that of the boxes; then images on which more explainers agree, then those with a
-- smaller share of the maps in the boxes. value: mean share of the maps in the boxes, in percent. images,
-- wrong: number of such images of the backbone, and of those that it takes for another class.
WITH looked AS (
    SELECT backbone, key, any_value(coalesce(numbers.label <> numbers.predicted, false)) AS wrong,
           count(*) FILTER (NOT pointing_game) AS outside, count(*) AS explainers,
           1e2 * avg(energy_in_box) AS value
    FROM localization JOIN predicted_numbers AS numbers USING (dataset, backbone, key)
    WHERE dataset = getvariable('dataset') AND localization.target = localization.predicted
    AND list_contains(getvariable('backbones'), backbone)
    AND list_contains(getvariable('rivals'), explainer)
    GROUP BY backbone, key
    HAVING outside >= 0.75 * explainers
),
placed AS (
    SELECT backbone, count(*) AS images, count(*) FILTER (wrong) AS wrong,
           arg_min(looked, row(wrong, -outside / explainers, value, md5(key)), 8) AS first
    FROM looked GROUP BY backbone
)
SELECT backbone, 'outside' AS kind, place, first[place].key AS key, first[place].value AS value,
       first[place].outside AS outside, first[place].explainers AS explainers, images, wrong
FROM placed, unnest(range(1, len(first) + 1)) AS places(place)
ORDER BY first[place].wrong, outside / explainers DESC, value, key, backbone
