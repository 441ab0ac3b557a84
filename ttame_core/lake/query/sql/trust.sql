-- How far a prediction's explanation can be relied on, a row per image, target class and explainer.
-- kept: percentage of the target's probability that the masked image keeps, at most 100, with the kept
-- share of the pixels nearest to 15 % that was measured. stable: percentage of the map that little noise
-- leaves as it is, null where the family robustness was not measured. trust: the lower of the two, or
-- kept alone; from 0 to 100.
CREATE VIEW trust AS
WITH held AS (
    SELECT dataset, backbone, explainer, key, target, any_value(predicted) AS predicted,
           1e2 * least(1, arg_min(p_masked::DOUBLE / greatest(p, 1e-9), abs(keep - 15))) AS kept
    FROM confidence WHERE fill = 'zero' GROUP BY ALL
),
steady AS (
    SELECT dataset, backbone, explainer, key, target,
           1e2 * (1 - least(1, any_value(max_sensitivity)::DOUBLE)) AS stable
    FROM robustness GROUP BY ALL
)
SELECT dataset, backbone, explainer, key, target, predicted, kept, stable,
       least(kept, coalesce(stable, kept)) AS trust
FROM held LEFT JOIN steady USING (dataset, backbone, explainer, key, target);
