-- How alike each map is to the map after weights were randomised, from -1 to 1; the lower the better.
-- sanity_correlation@D (ranks) and sanity_ssim@D (structure): D percent of the classifier's layers
-- were, from the logits down, 0 being the last alone; …/head: the explainer's trained head was.
SELECT
    dataset, backbone, explainer, key,
    'sanity_' || unnest(['correlation', 'ssim'])
        || CASE randomised WHEN 'head' THEN '/head' ELSE '@' || round(100 * depth)::INT END AS metric,
    unnest([rank_correlation, ssim])::DOUBLE AS value
FROM sanity WHERE target = predicted
