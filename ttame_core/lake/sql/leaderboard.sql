-- Every metric of every dataset, backbone and explainer, with its 95 % bootstrap interval and the
-- number of images behind it. Only maps of the model truth count (target = predicted). What is a
-- backbone's own (accuracy, discrimination) has the explainer '-'.
-- In: metric_values (a row per image and metric; sql/metrics/).

-- Images fall into 256 groups by their keys' hash, and a replicate counts each group a Poisson(1)
-- number of times: one pass over the images, then sums of 256 numbers, whatever the data's size.
CREATE TABLE bootstrap AS
SELECT
    replicate,
    list(CASE
        WHEN u < 0.36788 THEN 0 WHEN u < 0.73576 THEN 1 WHEN u < 0.91970 THEN 2
        WHEN u < 0.98101 THEN 3 WHEN u < 0.99634 THEN 4 WHEN u < 0.99941 THEN 5 ELSE 6
    END ORDER BY bucket)::DOUBLE[256] AS weights
FROM (
    SELECT replicate, bucket, md5_number_lower(replicate || '/' || bucket) / 2.0 ^ 64 AS u
    FROM range(500) AS r(replicate), range(256) AS b(bucket)
)
GROUP BY replicate;

CREATE VIEW leaderboard AS
WITH sums AS (
    SELECT dataset, backbone, explainer, metric, hash(key) % 256 AS bucket,
           sum(value) AS total, count(*) AS n
    FROM metric_values GROUP BY ALL
),
groups AS (
    SELECT dataset, backbone, explainer, metric, sum(total) / sum(n) AS value, sum(n) AS images,
           map(list(bucket), list(total)) AS totals, map(list(bucket), list(n)) AS counts
    FROM sums GROUP BY ALL
),
dense AS (
    SELECT
        * EXCLUDE (totals, counts),
        list_transform(range(256), lambda b: coalesce(totals[b], 0))::DOUBLE[256] AS totals,
        list_transform(range(256), lambda b: coalesce(counts[b], 0))::DOUBLE[256] AS counts
    FROM groups
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
SELECT dataset, backbone, explainer, metric, value, ends[1] AS ci_low, ends[2] AS ci_high,
       images::BIGINT AS images
FROM replicates;
