-- The training of heads: at most a hundred means of the loss, and the metrics of validations.
WITH own AS (
    SELECT backbone, explainer, step, loss, metric, value,
           max(step) OVER (PARTITION BY backbone, explainer) AS steps
    FROM heads
    WHERE dataset = getvariable('dataset')
    AND list_contains(getvariable('backbones'), backbone)
    AND list_contains(getvariable('explainers'), explainer)
)
SELECT backbone, explainer, 'loss' AS metric, max(step) AS step, avg(loss) AS value
FROM own WHERE metric IS NULL
GROUP BY backbone, explainer, (step - 1) * 100 // steps
UNION ALL
SELECT backbone, explainer, metric, step, value
FROM own WHERE metric IN ('AD@15', 'IC@15')
ORDER BY backbone, explainer, metric, step
