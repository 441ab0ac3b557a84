/*
order: 40
columns:  # a row per map, order and percentage of removed pixels
  order: VARCHAR
  removed: FLOAT
  p: FLOAT  # softmax of the target
  kept: BOOLEAN  # whether the target is still predicted
metrics:
  ROAD*: {better: higher, unit: "%", description: "how much sooner the confidence is lost with the most relevant pixels than with the least"}
  MoRF*:
    {better: lower, unit: "%", principal: false,
     description: after the most relevant pixels are removed}
  LeRF*:
    {better: higher, unit: "%", principal: false,
     description: after the least relevant pixels are removed}
*/
-- ROAD of each image, over all percentages of removed pixels, in percent. MoRF and LeRF are the
-- target's mean probability (for MoRF lower is better), and ROAD is half their difference. With
-- /accuracy, they are the share of percentages at which the target is still predicted.
SELECT
    dataset, backbone, explainer, key,
    1e2 * morf AS MoRF, 1e2 * lerf AS LeRF, 5e1 * (lerf - morf) AS ROAD,
    1e2 * morf_kept AS "MoRF/accuracy", 1e2 * lerf_kept AS "LeRF/accuracy",
    5e1 * (lerf_kept - morf_kept) AS "ROAD/accuracy"
FROM (
    SELECT
        dataset, backbone, explainer, key,
        avg(p) FILTER ("order" = 'MoRF') AS morf, avg(p) FILTER ("order" = 'LeRF') AS lerf,
        avg(kept::INT) FILTER ("order" = 'MoRF') AS morf_kept,
        avg(kept::INT) FILTER ("order" = 'LeRF') AS lerf_kept
    FROM road WHERE target = predicted GROUP BY dataset, backbone, explainer, key
)
