-- Classes that pictures of other classes are taken for when these are changed as a whole, so that a trace
-- of the change may tell the class: their mean probability rises by 25 points or more, or by 15 where
-- only the light is changed, which spoils no picture. before, after: the mean in %. pictures: number of
-- pictures. elsewhere: the largest rise, of any class, that the same change has with another backbone, in
-- points; null where there is none.
WITH means AS (
    SELECT backbone, target, source AS change, count(*) AS pictures, 100 * avg(before) AS before,
           100 * avg(after) AS after
    FROM pasted
    WHERE dataset = getvariable('dataset') AND list_contains(getvariable('backbones'), backbone)
    AND aspect = 'whole'
    GROUP BY ALL
)
SELECT means.backbone, class_name(target, classes.name) AS class, change, pictures, before, after,
       (SELECT max(other.after - other.before) FROM means AS other
        WHERE other.change = means.change AND other.backbone <> means.backbone) AS elsewhere
FROM means
LEFT JOIN classes ON classes.dataset = getvariable('dataset')
    AND classes.backbone = means.backbone AND classes.number = target
WHERE after - before >= CASE WHEN change IN ('warm', 'cold', 'dark', 'bright') THEN 15 ELSE 25 END
ORDER BY after - before DESC, means.backbone, change
