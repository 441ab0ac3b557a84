-- AD, IC and AG of each image at each kept percentage and fill.
SELECT
    dataset, backbone, explainer, key, keep AS level, nullif(fill, 'zero') AS fill,
    confidence_drop(p, p_masked) AS AD,
    confidence_rise(p, p_masked) AS IC,
    confidence_gain(p, p_masked) AS AG
FROM confidence WHERE target = predicted
