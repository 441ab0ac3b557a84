-- Three recorded images of each kind and backbone: the best, the typical (nearest to the median) and
-- the worst, by the share of the confidence that the leading explainer's map keeps, at most all of it.
-- Among equals the most confident prediction comes first, so that the best are no odd cases.
WITH kept AS (
    SELECT backbone, explainer, key, p, least(1, p_masked / greatest(p, 1e-9)) AS share
    FROM confidence
    WHERE dataset = getvariable('dataset') AND target = predicted
    AND keep = getvariable('keep') AND fill = 'zero'
    AND explainer = getvariable('leads')[backbone]
    AND key IN (FROM recorded)
),
measured AS (
    SELECT *, abs(share - median(share) OVER (PARTITION BY backbone)) AS distance,
           count(*) OVER (PARTITION BY backbone) AS images
    FROM kept
),
placed AS (
    SELECT *,
           row_number() OVER (PARTITION BY backbone ORDER BY share DESC, p DESC, md5(key)) AS best,
           row_number() OVER (PARTITION BY backbone ORDER BY share, p DESC, md5(key)) AS worst,
           row_number() OVER (PARTITION BY backbone ORDER BY distance, md5(key)) AS typical
    FROM measured
)
SELECT backbone, 'best' AS kind, best AS place, key, 1e2 * share AS value FROM placed WHERE best <= 3
UNION ALL
SELECT backbone, 'typical', typical, key, 1e2 * share FROM placed
WHERE typical <= 3 AND least(best, worst) > 3
UNION ALL
SELECT backbone, 'worst', worst, key, 1e2 * share FROM placed WHERE worst <= 3 AND best > 3
ORDER BY backbone, kind, place
