-- The mean rank of each explainer in the latest 24 audits of this name, over all metrics but the cost.
-- Rank 1 is best, and equals share a rank. The last audit is the one that the lake holds now.
WITH boards AS (
    SELECT timestamp, backbone, explainer, role, metric, value FROM audits
    WHERE name = getvariable('audit') AND dataset = getvariable('dataset')
    AND timestamp < getvariable('now')
    UNION ALL
    SELECT getvariable('now'), backbone, explainer, role, metric, value FROM leaderboard
    WHERE dataset = getvariable('dataset') AND list_contains(getvariable('backbones'), backbone)
    AND list_contains(getvariable('explainers'), explainer)
),
ranked AS (
    SELECT timestamp, explainer,
           rank() OVER (cell ORDER BY loss)
           + (count(*) OVER (PARTITION BY timestamp, backbone, metric, loss) - 1) / 2 AS rank
    FROM (
        SELECT *, CASE WHEN lower_is_better THEN value ELSE -value END AS loss
        FROM boards JOIN metrics ON metric GLOB pattern
        WHERE family NOT IN ('cost', 'backbone') AND lower_is_better IS NOT NULL
        AND role = 'rival'
    )
    WINDOW cell AS (PARTITION BY timestamp, backbone, metric)
)
SELECT timestamp, explainer, avg(rank) AS value, count(*) AS cells
FROM ranked GROUP BY timestamp, explainer
QUALIFY dense_rank() OVER (ORDER BY timestamp DESC) <= 24
ORDER BY timestamp, value, explainer
