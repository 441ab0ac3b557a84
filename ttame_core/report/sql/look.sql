-- The forty predictions of each backbone that deserve a look first: those with the lowest trust, by the
-- maps of the explainer that keeps most confidence. right: null where the image has no label.
WITH placed AS (
    SELECT backbone,
           arg_min({'key': key, 'kept': kept, 'stable': stable, 'trust': trust},
                   row(trust, md5(key)), 40) AS first
    FROM trust
    WHERE dataset = getvariable('dataset') AND target = predicted
    AND explainer = getvariable('leads')[backbone]
    GROUP BY backbone
),
lowest AS (
    SELECT backbone, place, first[place].key AS key, first[place].kept AS kept,
           first[place].stable AS stable, first[place].trust AS trust
    FROM placed, unnest(range(1, len(first) + 1)) AS places(place)
)
SELECT backbone, place, key, class, predicted_class, label = predicted AS right,
       1e2 * probability AS probability, kept, stable, trust
FROM lowest JOIN predictions USING (backbone, key)
WHERE dataset = getvariable('dataset')
ORDER BY backbone, place
