-- What becomes of pictures of other classes, when what the maps of a class mark is pasted onto them at the
-- same place, where these maps are alike in place or in look (aspect). before: mean probability of the
-- class on these pictures as they are, in %. alike: that with the marked part of the class's images whose
-- maps are most like the others. unlike: that with the marked part of those whose maps are least like
-- them. pictures: number of pictures of other classes. usual_before, usual_after: the same before and
-- after with the marked parts of other classes (usual_classes of them), the median over these; null
-- where there is no other class.
WITH means AS (
    SELECT backbone, target, aspect, count(DISTINCT key) AS pictures, 100 * avg(before) AS before,
           100 * avg(after) FILTER (maps = 'alike') AS alike,
           100 * avg(after) FILTER (maps = 'unlike') AS unlike,
           100 * avg(after) FILTER (maps = 'usual') AS usual
    FROM pasted
    WHERE dataset = getvariable('dataset') AND list_contains(getvariable('backbones'), backbone)
    AND aspect IN ('place', 'look', '')
    GROUP BY ALL
),
others AS (
    SELECT backbone, median(before) AS usual_before, median(usual) AS usual_after,
           count(*) AS usual_classes
    FROM means WHERE aspect = '' GROUP BY ALL
)
SELECT means.backbone, class_name(target, classes.name) AS class, aspect, pictures, before, alike,
       unlike, usual_before, usual_after, usual_classes
FROM means LEFT JOIN others USING (backbone)
LEFT JOIN classes ON classes.dataset = getvariable('dataset')
    AND classes.backbone = means.backbone AND classes.number = target
WHERE aspect <> '' ORDER BY ALL
