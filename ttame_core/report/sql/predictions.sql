-- All predictions and how far their explanations can be relied on, a row per explainer. right: null
-- where the image has no label.
SELECT backbone, key, class, predicted_class, label = predicted AS right,
       1e2 * probability AS probability, explainer, kept, stable, trust
FROM predictions
LEFT JOIN (FROM trust WHERE target = predicted) USING (dataset, backbone, key, predicted)
WHERE dataset = getvariable('dataset') AND list_contains(getvariable('backbones'), backbone)
ORDER BY trust, backbone, key, explainer
