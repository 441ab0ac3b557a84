-- ROAD step by step: the target's mean probability, in percent, after `removed` percent of the pixels
-- were removed, the most relevant (MoRF) or the least relevant (LeRF) first. half: half of the mean's
-- 95 % interval (1.96 standard errors).
SELECT backbone, explainer, "order", removed,
       1e2 * avg(p) AS value,
       196 * coalesce(stddev_samp(p), 0) / sqrt(count(*)) AS half,
       count(*) AS images
FROM road
WHERE dataset = getvariable('dataset') AND target = predicted
AND list_contains(getvariable('backbones'), backbone)
AND list_contains(getvariable('explainers'), explainer)
GROUP BY ALL ORDER BY ALL
