-- The predictions on the page of images, at most getvariable('most') of each backbone: half are those
-- with the lowest trust, by the maps of the leading explainer, the others are the images with the lowest
-- hashes, which are a random choice. place: 1, 2, … of each backbone, of both halves in turn. pictured: whether
-- the page shows the image: among the first getvariable('pictured') places in the first 24 shards, so
-- that few shards are read. images: number of the backbone's predictions. A row per prediction and
-- explainer.
WITH lowest AS (
    SELECT backbone, arg_min(key, row(trust, md5(key)), getvariable('most')) AS keys
    FROM trust
    WHERE dataset = getvariable('dataset') AND target = predicted
    AND explainer = getvariable('leads')[backbone]
    GROUP BY backbone
),
drawn AS (
    SELECT backbone, count(*) AS images,
           arg_min(key, md5(key), getvariable('most')) FILTER (key IN (FROM recorded)) AS keys
    FROM predicted_numbers
    WHERE dataset = getvariable('dataset') AND list_contains(getvariable('backbones'), backbone)
    GROUP BY backbone
),
listed AS (
    SELECT backbone, unnest(keys) AS key, 2 * generate_subscripts(keys, 1) - 1 AS turn FROM lowest
    UNION ALL
    SELECT backbone, unnest(keys), 2 * generate_subscripts(keys, 1) FROM drawn
),
placed AS (
    SELECT backbone, key, row_number() OVER (PARTITION BY backbone ORDER BY min(turn)) AS place
    FROM listed GROUP BY backbone, key
    QUALIFY place <= getvariable('most')
),
located AS (
    SELECT placed.*, shard FROM placed JOIN samples USING (key)
    WHERE dataset = getvariable('dataset')
),
near AS (SELECT shard FROM located GROUP BY shard ORDER BY min(place), shard LIMIT 24),
chosen AS (
    SELECT backbone, key, place,
           shard IN (FROM near) AND count(*) FILTER (shard IN (FROM near)) OVER (
               PARTITION BY backbone ORDER BY place
           ) <= getvariable('pictured') AS pictured
    FROM located
),
looked AS (
    SELECT backbone, key, explainer, any_value(pointing_game) AS inside
    FROM localization
    WHERE dataset = getvariable('dataset') AND target = predicted
    AND list_contains(getvariable('rivals'), explainer)
    AND (backbone, key) IN (SELECT (backbone, key) FROM chosen)
    GROUP BY ALL
),
relied AS (
    SELECT backbone, key, explainer, trust FROM trust
    WHERE dataset = getvariable('dataset') AND target = predicted
    AND list_contains(getvariable('rivals'), explainer)
    AND (backbone, key) IN (SELECT (backbone, key) FROM chosen)
),
scored AS (
    SELECT backbone, key, explainer, trust, inside
    FROM relied FULL JOIN looked USING (backbone, key, explainer)
)
SELECT backbone, place, key, pictured, class, predicted_class, label = predicted AS right,
       1e2 * probability AS probability, explainer, trust, inside, images
FROM chosen JOIN predictions USING (backbone, key) JOIN drawn USING (backbone)
LEFT JOIN scored USING (backbone, key)
WHERE dataset = getvariable('dataset')
ORDER BY place, backbone, explainer
