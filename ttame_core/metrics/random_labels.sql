/*
from: shape
metrics: {sanity_labels: sanity_*}
*/
-- The random-label check of trained heads: the correlation of each map with that of the explainer's
-- control, which was trained on permuted labels; lower is better.
SELECT a.dataset, a.backbone, a.explainer, a.key,
       avg(list_inner_product(a.thumbnail, b.thumbnail)) AS sanity_labels
FROM explainers AS control
JOIN shape AS a ON a.dataset = control.dataset AND a.backbone = control.backbone
    AND a.explainer = control.control_of
JOIN shape AS b ON b.dataset = control.dataset AND b.backbone = control.backbone
    AND b.explainer = control.explainer AND b.key = a.key AND b.target = a.target
WHERE a.target = a.predicted
GROUP BY ALL
