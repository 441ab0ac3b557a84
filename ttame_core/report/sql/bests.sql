-- The best explainer of each backbone and metric, and its value.
SELECT backbone, metric,
       CASE WHEN lower_is_better THEN arg_min(explainer, value) ELSE arg_max(explainer, value) END
       AS best,
       CASE WHEN lower_is_better THEN min(value) ELSE max(value) END AS value
FROM leaderboard JOIN metrics ON metric GLOB pattern
WHERE dataset = getvariable('dataset') AND role = 'rival' AND lower_is_better IS NOT NULL
AND list_contains(getvariable('backbones'), backbone)
AND list_contains(getvariable('explainers'), explainer)
GROUP BY backbone, metric, lower_is_better ORDER BY metric, backbone
