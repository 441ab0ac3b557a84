-- AD, IC and AG of each image at each kept percentage: AD@15, and AD@15/blur for other fills.
SELECT
    dataset, backbone, explainer, key,
    unnest(['AD', 'IC', 'AG']) || '@' || printf('%g', keep)
        || CASE fill WHEN 'zero' THEN '' ELSE '/' || fill END AS metric,
    unnest([
        confidence_drop(p, p_masked), confidence_rise(p, p_masked), confidence_gain(p, p_masked)
    ]) AS value
FROM confidence WHERE target = predicted
