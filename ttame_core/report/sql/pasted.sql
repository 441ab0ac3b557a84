-- What becomes of pictures of other classes, when what the maps of a class mark is pasted onto them at the
-- same place, where these maps are alike in place or in look (aspect). before: mean probability of the
-- class on these pictures as they are, in %. alike: that with the marked part of the class's images whose
-- maps are most like the others. others: that with the marked part of those whose maps are least like
-- them. pictures: number of pictures of other classes.
SELECT pasted.backbone, class_name(target, classes.name) AS class, aspect,
       count(DISTINCT key) AS pictures, 100 * avg(before) AS before,
       100 * avg(after) FILTER (alike) AS alike, 100 * avg(after) FILTER (NOT alike) AS others
FROM pasted LEFT JOIN classes
    ON classes.dataset = pasted.dataset AND classes.backbone = pasted.backbone AND number = target
WHERE pasted.dataset = getvariable('dataset')
AND list_contains(getvariable('backbones'), pasted.backbone)
GROUP BY ALL ORDER BY ALL
