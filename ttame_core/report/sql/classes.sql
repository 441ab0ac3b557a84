-- The average drop by class and explainer, for the classes of each backbone that lose most, and their
-- accuracy in percent. classes: number of classes of the backbone.
WITH names AS (
    SELECT backbone, number AS label, name FROM classes WHERE dataset = getvariable('dataset')
),
-- Until names of classifiers were kept, a class of the data set was that of its number.
numbered AS (
    SELECT label, any_value(class) AS given FROM samples
    WHERE dataset = getvariable('dataset') GROUP BY label
),
accuracies AS (
    SELECT backbone, label, 1e2 * avg((label = predicted)::INT) AS accuracy FROM predicted_numbers
    WHERE dataset = getvariable('dataset') GROUP BY ALL
),
drops AS (
    SELECT backbone, label, explainer, AD(p, p_masked) AS value, count(*) AS images
    FROM confidence
    WHERE dataset = getvariable('dataset') AND target = predicted
    AND keep = getvariable('keep') AND fill = 'zero'
    AND list_contains(getvariable('backbones'), backbone)
    AND list_contains(getvariable('rivals'), explainer) AND label IS NOT NULL
    GROUP BY ALL
),
ranked AS (
    SELECT backbone, label, count(*) OVER (PARTITION BY backbone) AS classes,
           row_number() OVER (PARTITION BY backbone ORDER BY avg(value) DESC, label) AS place
    FROM drops GROUP BY backbone, label
)
SELECT backbone, place, classes, class_name(label, coalesce(
           name, CASE WHEN backbone NOT IN (SELECT backbone FROM names) THEN given END
       )) AS class, accuracy, explainer, value,
       images
FROM ranked JOIN drops USING (backbone, label) JOIN accuracies USING (backbone, label)
LEFT JOIN names USING (backbone, label)
LEFT JOIN numbered USING (label)
WHERE place <= 30
ORDER BY backbone, place, explainer
