-- Classes of which many images are taken for one and the same other class: 5 or more, and a quarter of the
-- class or more; of each backbone the eight largest shares. taken, images: how many, and of how many of
-- the class. back, others: the same of the other class. one_sided: whether the other class has less than a
-- third of that share, so that it is not just that the two look alike; where no image is of the other class,
-- whether half of the class or more is taken for it. pairs: number of such pairs of the backbone.
WITH pairs AS MATERIALIZED (
    SELECT backbone, label, predicted, count(*) AS taken,
           (sum(count(*)) OVER (PARTITION BY backbone, label))::BIGINT AS images
    FROM predicted_numbers
    WHERE dataset = getvariable('dataset') AND list_contains(getvariable('backbones'), backbone)
    AND label IS NOT NULL
    GROUP BY backbone, label, predicted
),
sizes AS (SELECT DISTINCT backbone, label, images FROM pairs)
SELECT one.backbone, class_name(one.label, own.name) AS class,
       class_name(one.predicted, its.name) AS other, one.taken, one.images,
       coalesce(back.taken, 0) AS back, coalesce(others.images, 0) AS others,
       CASE WHEN others.images IS NULL THEN 2 * one.taken >= one.images
            ELSE 3 * coalesce(back.taken, 0) / others.images < one.taken / one.images
       END AS one_sided,
       count(*) OVER (PARTITION BY one.backbone) AS pairs
FROM pairs AS one
LEFT JOIN pairs AS back
    ON back.backbone = one.backbone AND back.label = one.predicted AND back.predicted = one.label
LEFT JOIN sizes AS others ON others.backbone = one.backbone AND others.label = one.predicted
LEFT JOIN classes AS own
    ON own.dataset = getvariable('dataset')
    AND own.backbone = one.backbone AND own.number = one.label
LEFT JOIN classes AS its
    ON its.dataset = getvariable('dataset')
    AND its.backbone = one.backbone AND its.number = one.predicted
WHERE one.label <> one.predicted AND one.taken >= 5 AND 4 * one.taken >= one.images
QUALIFY row_number() OVER (
    PARTITION BY one.backbone ORDER BY one.taken / one.images DESC, one.label, one.predicted
) <= 8
ORDER BY one.taken / one.images DESC, one.backbone, one.label, one.predicted
