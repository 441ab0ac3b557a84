-- The disagreement of explainers: the correlation of two explainers' maps of each image.
-- In: shape.thumbnail, each map at 14×14, centred and of unit norm.
CREATE VIEW disagreement AS
SELECT a.dataset, a.backbone, a.key, a.explainer AS explainer_a, b.explainer AS explainer_b,
       list_inner_product(a.thumbnail, b.thumbnail) AS correlation
FROM shape AS a JOIN shape AS b
    ON a.dataset = b.dataset AND a.backbone = b.backbone AND a.key = b.key AND a.target = b.target
    AND a.explainer < b.explainer
WHERE a.target = a.predicted;
