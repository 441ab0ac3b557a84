-- Insertion and deletion step by step: the target's mean probability, in percent, after `moved` percent
-- of the pixels were inserted into a blurred image, or blackened. half: half of the mean's 95 % interval
-- (1.96 standard errors).
WITH single AS (
    SELECT backbone, explainer, curve, unnest(probabilities) AS p,
           1e2 * (generate_subscripts(probabilities, 1) - 1) / (len(probabilities) - 1) AS moved
    FROM curves
    WHERE dataset = getvariable('dataset') AND target = predicted
    AND (curve, fill) IN (('insertion', 'blur'), ('deletion', 'zero'))
    AND list_contains(getvariable('backbones'), backbone)
    AND list_contains(getvariable('explainers'), explainer)
)
SELECT backbone, explainer, curve, moved,
       1e2 * avg(p) AS value,
       196 * coalesce(stddev_samp(p), 0) / sqrt(count(*)) AS half,
       count(*) AS images
FROM single
GROUP BY ALL ORDER BY ALL
