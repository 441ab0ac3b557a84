SELECT backbone, explainer, metric, value, ci_low, ci_high, images
FROM leaderboard
WHERE dataset = getvariable('dataset')
AND list_contains(getvariable('backbones'), backbone)
AND (explainer = '-' OR list_contains(getvariable('explainers'), explainer))
ORDER BY metric, backbone, value
