-- ROAD of each image over all percentages of removed pixels: MoRF and LeRF are the target's mean
-- probability (for MoRF lower is better), and ROAD is half their difference. Their /accuracy is how
-- often the target is still predicted.
SELECT
    dataset, backbone, explainer, key,
    unnest(['MoRF', 'LeRF', 'ROAD', 'MoRF/accuracy', 'LeRF/accuracy', 'ROAD/accuracy']) AS metric,
    100 * unnest([
        morf, lerf, (lerf - morf) / 2,
        morf_kept, lerf_kept, (lerf_kept - morf_kept) / 2
    ]) AS value
FROM (
    SELECT
        dataset, backbone, explainer, key,
        avg(p) FILTER ("order" = 'MoRF') AS morf, avg(p) FILTER ("order" = 'LeRF') AS lerf,
        avg(kept::INT) FILTER ("order" = 'MoRF') AS morf_kept,
        avg(kept::INT) FILTER ("order" = 'LeRF') AS lerf_kept
    FROM road WHERE target = predicted GROUP BY dataset, backbone, explainer, key
)
