-- Every metric of every dataset, backbone and explainer, with its 95 % bootstrap interval and the
-- number of its images. Only maps of the predicted class count (target = predicted). Metrics of a
-- backbone itself (accuracy, discrimination) have the explainer '-', and no method and role.
-- In: metric_sums (a row per metric and group of images; ttame_core/lake/query/metric_values.py),
-- recorded_boards (leaderboards of records that still hold; ttame_core/lake/query/boards.py) and the
-- variable of that name, their data sets.

-- The weights of the bootstrap. Images fall into 256 groups by the hash of their keys, and each
-- replicate counts each group a Poisson(1) number of times. So one pass over the images is enough, and
-- then sums of 256 numbers, whatever the size of the data is. This is a view, so that queries without
-- intervals do not compute it.
CREATE VIEW bootstrap AS
SELECT
    replicate,
    list(CASE
        WHEN u < 0.36788 THEN 0 WHEN u < 0.73576 THEN 1 WHEN u < 0.91970 THEN 2
        WHEN u < 0.98101 THEN 3 WHEN u < 0.99634 THEN 4 WHEN u < 0.99941 THEN 5 ELSE 6
    END ORDER BY bucket)::FLOAT[256] AS weights
FROM (
    SELECT replicate, bucket, hash(256 * replicate + bucket) / 2.0 ^ 64 AS u
    FROM range(256) AS r(replicate), range(256) AS b(bucket)
)
GROUP BY replicate;

CREATE VIEW leaderboard AS
WITH sums AS MATERIALIZED (
    SELECT dataset, backbone, explainer, metric_name(measure, metric, level, fill) AS metric, bucket,
           total, n
    FROM metric_sums WHERE NOT list_contains(coalesce(getvariable('recorded_boards'), []), dataset)
),
-- Groups without images are added with a total of 0.
complete AS (
    SELECT dataset, backbone, explainer, metric, bucket, sum(total) AS total, sum(n)::DOUBLE AS n
    FROM (
        FROM sums UNION ALL
        SELECT dataset, backbone, explainer, metric, empty.bucket, 0, 0
        FROM (SELECT DISTINCT dataset, backbone, explainer, metric FROM sums),
             range(256) AS empty(bucket)
    )
    GROUP BY dataset, backbone, explainer, metric, bucket
),
dense AS (
    SELECT dataset, backbone, explainer, metric, sum(total) / sum(n) AS value, sum(n) AS images,
           list(total ORDER BY bucket)::FLOAT[256] AS totals,
           list(n ORDER BY bucket)::FLOAT[256] AS counts
    FROM complete GROUP BY dataset, backbone, explainer, metric
),
replicates AS (
    SELECT dataset, backbone, explainer, metric, any_value(value) AS value,
           any_value(images) AS images,
           quantile_cont(
               array_inner_product(weights, totals) / nullif(array_inner_product(weights, counts), 0),
               [0.025, 0.975]
           ) AS ends
    FROM dense, bootstrap GROUP BY dataset, backbone, explainer, metric
)
SELECT dataset, backbone, explainer, metric, value, ends[1]::DOUBLE AS ci_low, ends[2]::DOUBLE AS ci_high,
       images::BIGINT AS images, method, role
FROM replicates LEFT JOIN explainers USING (dataset, backbone, explainer)
UNION ALL FROM recorded_boards;
