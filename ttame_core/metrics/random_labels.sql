/*
from: shape
metrics: {sanity_labels: sanity_*}
*/
-- The random-label check of trained heads: how alike each map is, as a correlation, to that of the
-- same explainer trained on permuted labels, its control; the lower the better.
SELECT a.dataset, a.backbone, a.explainer, a.key,
       avg(list_inner_product(a.thumbnail, b.thumbnail)) AS sanity_labels
FROM explainers AS control
JOIN shape AS a ON a.dataset = control.dataset AND a.backbone = control.backbone
    AND a.explainer = control.control_of
JOIN shape AS b ON b.dataset = control.dataset AND b.backbone = control.backbone
    AND b.explainer = control.explainer AND b.key = a.key AND b.target = a.target
WHERE a.target = a.predicted
GROUP BY ALL
