-- The forty predictions of each backbone that deserve a look first: those with the lowest trust, by the
-- maps of the explainer that keeps most confidence. right: null where the image has no label. images,
-- usual, keeps, stays: number, median trust, mean kept and mean stable of all predictions of the backbone.
WITH placed AS (
    SELECT backbone, count(*) AS images, median(trust) AS usual, avg(kept) AS keeps,
           avg(stable) AS stays,
           arg_min({'key': key, 'kept': kept, 'stable': stable, 'trust': trust},
                   row(trust, md5(key)), 40) AS first
    FROM trust
    WHERE dataset = getvariable('dataset') AND target = predicted
    AND explainer = getvariable('leads')[backbone]
    GROUP BY backbone
),
lowest AS (
    SELECT backbone, images, usual, keeps, stays, place, first[place].key AS key, first[place].kept AS kept,
           first[place].stable AS stable, first[place].trust AS trust
    FROM placed, unnest(range(1, len(first) + 1)) AS places(place)
)
SELECT backbone, place, key, class, predicted_class, label = predicted AS right,
       1e2 * probability AS probability, kept, stable, trust, images, usual, keeps, stays
FROM lowest JOIN predictions USING (backbone, key)
WHERE dataset = getvariable('dataset')
ORDER BY backbone, place
