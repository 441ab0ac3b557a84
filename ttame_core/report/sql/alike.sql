-- Images of classes whose maps are alike, which may be told by a shortcut: a class whose maps mark the
-- same place (`place_alike` of 0.35 or more), or whose maps mark what looks the same (`look_alike` of
-- 0.05 or more, and five times that of the median class); of both, its place. A class has the value that
-- a quarter of its images reach, the mean over explainers. At most five such classes of a backbone, and
-- of each the `most` images whose maps are most like those of the others. images: number of the class's
-- images. elsewhere: the highest score of the class of that name with another backbone, in the same
-- aspect; null where there is none. whose: that backbone, where there is one alone. spot: the one of
-- 7 × 7 cells of the view, 1 to 49 row by row, in which the class's maps are furthest above the mean of
-- all classes.
WITH own AS (
    SELECT backbone, explainer, key, predicted_class AS class,
           unnest(['place', 'look']) AS aspect, unnest([place_alike, look_alike]) AS value
    FROM values_marked JOIN predictions USING (dataset, backbone, key)
    WHERE dataset = getvariable('dataset')
    AND list_contains(getvariable('backbones'), backbone)
    AND list_contains(getvariable('rivals'), explainer)
),
classes AS (
    SELECT backbone, aspect, class, avg(score) AS score, max(images) AS images
    FROM (
        SELECT backbone, explainer, aspect, class, quantile_cont(value, 0.75) AS score,
               count(*) AS images
        FROM own GROUP BY ALL
    )
    GROUP BY ALL
),
suspected AS (
    FROM (
        FROM (FROM classes SELECT *, median(score) OVER (PARTITION BY backbone, aspect) AS usual)
        WHERE CASE aspect
              WHEN 'place' THEN score >= 0.35 ELSE score >= greatest(0.05, 5 * usual) END
        QUALIFY row_number() OVER (PARTITION BY backbone, class ORDER BY aspect = 'look') = 1
    )
    QUALIFY row_number() OVER (PARTITION BY backbone ORDER BY score DESC, class) <= 5
),
cells AS (
    SELECT backbone, class, cell, avg(value) AS mean
    FROM (
        SELECT backbone, predicted_class AS class, generate_subscripts(marked.place, 1) AS cell,
               unnest(marked.place) AS value
        FROM marked JOIN predictions USING (dataset, backbone, key)
        WHERE dataset = getvariable('dataset') AND marked.target = marked.predicted
        AND list_contains(getvariable('backbones'), backbone)
        AND list_contains(getvariable('rivals'), explainer)
    )
    GROUP BY ALL
),
spots AS (
    SELECT backbone, class, arg_max(cell, ahead) AS spot
    FROM (FROM cells SELECT *, mean - avg(mean) OVER (PARTITION BY backbone, cell) AS ahead)
    GROUP BY ALL
),
elsewhere AS (
    SELECT suspected.backbone, suspected.aspect, suspected.class, max(classes.score) AS elsewhere,
           CASE WHEN count(*) = 1 THEN any_value(classes.backbone) END AS whose
    FROM suspected JOIN classes USING (aspect, class)
    WHERE classes.backbone <> suspected.backbone
    GROUP BY ALL
),
pictures AS (
    SELECT backbone, aspect, class, score, images, key, avg(value) AS value
    FROM own JOIN suspected USING (backbone, aspect, class) GROUP BY ALL
)
SELECT backbone, 'alike' AS kind, aspect, class, score, elsewhere, whose, images, key, value,
       spot,
       row_number() OVER (
           PARTITION BY backbone, aspect, class ORDER BY value DESC, md5(key)
       ) AS place
FROM pictures LEFT JOIN spots USING (backbone, class)
LEFT JOIN elsewhere USING (backbone, aspect, class) QUALIFY place <= getvariable('most')
ORDER BY score DESC, backbone, class, aspect, place
