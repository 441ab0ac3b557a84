-- The mean correlation of an explainer's map of the predicted class with its maps of other classes of
-- the same image, over at most 200 images of one shard.
WITH few AS (
    SELECT key, shard FROM samples
    WHERE dataset = getvariable('dataset') AND shard = (
        SELECT min(shard) FROM samples
        WHERE dataset = getvariable('dataset') AND key IN (FROM recorded)
    ) ORDER BY md5(key), key LIMIT 200
),
own AS (
    SELECT backbone, explainer, key, target, predicted,
           list_transform(map, lambda v: v - list_avg(map)) AS centred
    FROM maps
    WHERE dataset = getvariable('dataset') AND shard = (SELECT min(shard) FROM few)
    AND key IN (SELECT key FROM few) AND list_contains(getvariable('rivals'), explainer)
)
SELECT a.backbone, a.explainer, avg(list_cosine_similarity(a.centred, b.centred)) AS likeness
FROM own AS a JOIN own AS b USING (backbone, explainer, key)
WHERE a.target = a.predicted AND b.target <> b.predicted
GROUP BY ALL HAVING likeness IS NOT NULL AND NOT isnan(likeness)
ORDER BY ALL
