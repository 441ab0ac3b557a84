-- The random-label check of trained heads: how alike each map is, as a correlation, to that of the
-- same explainer trained on permuted labels, which is called <explainer>-permuted; the lower the better.
SELECT a.dataset, a.backbone, a.explainer, a.key,
       list_inner_product(a.thumbnail, b.thumbnail) AS sanity_labels
FROM shape AS a JOIN shape AS b
    ON a.dataset = b.dataset AND a.backbone = b.backbone AND a.key = b.key AND a.target = b.target
    AND b.explainer = a.explainer || '-permuted'
WHERE a.target = a.predicted
