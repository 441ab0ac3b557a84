-- Classes of which many images are taken for one and the same other class: 5 or more, and a quarter of the
-- class or more; of each backbone the eight largest shares. taken, images: how many, and of how many of
-- the class. back, others: the same of the other class. pairs: number of such pairs of the backbone.
-- sign: what it is a sign of; null where the two may just look alike, or where 5 or more images of a third
-- class, and more than two thirds of that share, are taken for the other class as well.
--   swapped: both are mostly taken for the other, three in four on average
--   one-sided: the other class has less than a third of that share
--   nowhere: no image is of the other class, and three in four or more are taken for it
WITH pairs AS MATERIALIZED (
    SELECT backbone, label, predicted, count(*) AS taken,
           (sum(count(*)) OVER (PARTITION BY backbone, label))::BIGINT AS images
    FROM predicted_numbers
    WHERE dataset = getvariable('dataset') AND list_contains(getvariable('backbones'), backbone)
    AND label IS NOT NULL
    GROUP BY backbone, label, predicted
),
sizes AS (SELECT DISTINCT backbone, label, images FROM pairs),
confused AS (
    SELECT one.*, coalesce(back.taken, 0) AS back, coalesce(others.images, 0) AS others,
           one.taken / one.images AS share, coalesce(back.taken, 0) / others.images AS back_share,
           max(one.taken / one.images) FILTER (one.taken >= 5) OVER (
               PARTITION BY one.backbone, one.predicted
               ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING EXCLUDE CURRENT ROW
           ) AS third_share
    FROM pairs AS one
    LEFT JOIN pairs AS back
        ON back.backbone = one.backbone AND back.label = one.predicted AND back.predicted = one.label
    LEFT JOIN sizes AS others ON others.backbone = one.backbone AND others.label = one.predicted
    WHERE one.label <> one.predicted
)
SELECT confused.backbone, class_name(label, own.name) AS class, class_name(predicted, its.name) AS other,
       taken, images, back, others,
       CASE WHEN 3 * third_share > 2 * share THEN NULL
            WHEN others = 0 AND share >= 0.75 THEN 'nowhere'
            WHEN share + back_share >= 1.5 THEN 'swapped'
            WHEN 3 * back_share < share THEN 'one-sided'
       END AS sign,
       count(*) OVER (PARTITION BY confused.backbone) AS pairs
FROM confused
LEFT JOIN classes AS own
    ON own.dataset = getvariable('dataset')
    AND own.backbone = confused.backbone AND own.number = label
LEFT JOIN classes AS its
    ON its.dataset = getvariable('dataset')
    AND its.backbone = confused.backbone AND its.number = predicted
WHERE taken >= 5 AND share >= 0.25
QUALIFY row_number() OVER (PARTITION BY confused.backbone ORDER BY share DESC, label, predicted) <= 8
ORDER BY share DESC, confused.backbone, label, predicted
