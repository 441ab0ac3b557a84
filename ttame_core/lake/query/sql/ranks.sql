-- The mean rank of each explainer, for every family of metrics, and over all families but the cost.
-- Rank 1 is best, and equals share a rank. A cell is a metric of one backbone, and explainers are ranked
-- among the `rivals` in it.
CREATE VIEW ranks AS
WITH cells AS (
    SELECT dataset, backbone, explainer, metric, family, lower_is_better,
           CASE WHEN lower_is_better THEN value ELSE -value END AS loss
    FROM leaderboard JOIN metrics ON metric GLOB pattern
    WHERE role = 'rival' AND lower_is_better IS NOT NULL
),
ranked AS (
    SELECT *, count(*) OVER cell AS rivals,
           rank() OVER (cell ORDER BY loss)
           + (count(*) OVER (PARTITION BY dataset, backbone, metric, loss) - 1) / 2 AS rank
    FROM cells
    WINDOW cell AS (PARTITION BY dataset, backbone, metric)
)
SELECT dataset, explainer, family, avg(rank) AS mean_rank, avg(rivals) AS rivals, count(*) AS cells
FROM ranked GROUP BY ALL
UNION ALL
SELECT dataset, explainer, 'all', avg(rank), avg(rivals), count(*)
FROM ranked WHERE family <> 'cost' GROUP BY ALL;
