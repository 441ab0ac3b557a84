/*
order: 100
columns:  # a row per map and step
  randomised: VARCHAR  # classifier or head
  depth: FLOAT  # from 0, the last layer alone, to 1, all layers of the classifier
  rank_correlation: FLOAT
  ssim: FLOAT
metrics:
  sanity_*: {better: lower, description: similarity of the maps once weights are destroyed}
*/
-- The similarity of each map to the map after weights were randomised, from -1 to 1; lower is better.
-- For sanity_correlation@D (ranks) and sanity_ssim@D (structure), D percent of the classifier's layers
-- were randomised, from the logits down (0: only the last layer); for …/head, the explainer's head was.
SELECT
    dataset, backbone, explainer, key,
    CASE WHEN randomised <> 'head' THEN round(100 * depth) END AS level,
    CASE WHEN randomised = 'head' THEN 'head' END AS fill,
    rank_correlation AS sanity_correlation, ssim AS sanity_ssim
FROM sanity WHERE target = predicted
