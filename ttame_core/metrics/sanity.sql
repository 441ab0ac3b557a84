/*
order: 100
columns:  # of a row per map and step
  randomised: VARCHAR  # classifier or head
  depth: FLOAT  # of the classifier's layers, from 0, the last alone, to 1, all
  rank_correlation: FLOAT
  ssim: FLOAT
metrics:
  sanity_*: {better: lower, description: similarity of the maps once weights are destroyed}
*/
-- How alike each map is to the map after weights were randomised, from -1 to 1; the lower the better.
-- sanity_correlation@D (ranks) and sanity_ssim@D (structure): D percent of the classifier's layers
-- were, from the logits down, 0 being the last alone; …/head: the explainer's trained head was.
SELECT
    dataset, backbone, explainer, key,
    CASE WHEN randomised <> 'head' THEN round(100 * depth) END AS level,
    CASE WHEN randomised = 'head' THEN 'head' END AS fill,
    rank_correlation AS sanity_correlation, ssim AS sanity_ssim
FROM sanity WHERE target = predicted
