-- All scores of an audit's maps, shard after shard (ttame_core/exports/huggingface.py).
-- Parameters: the data set, the split, the backbones and the explainers.

SELECT shard, (key, backbone, explainer) AS place, metric, value
FROM metric_values JOIN samples USING (dataset, key)
WHERE dataset = $1 AND split = $2
  AND list_contains($3, backbone) AND list_contains($4, explainer)
ORDER BY shard
