-- The drops of random maps, of a rival's and of the annotated objects over the same images, summed in
-- the bootstrap's groups of images. Where a backbone has values of annotated objects, only the images
-- that have them count; where it has none, `oracle` is null.
-- In: own_values (the record's values.parquet).
WITH own AS (
    SELECT v.backbone, v.explainer, e.method, e.role, v.key, v.value::DOUBLE AS value
    FROM own_values AS v JOIN explainers AS e USING (dataset, backbone, explainer)
    WHERE v.dataset = getvariable('dataset') AND v.metric = getvariable('drop')
),
random AS (
    SELECT backbone, key, avg(value) AS value FROM own WHERE method = 'random' GROUP BY ALL
),
oracle AS (
    SELECT backbone, key, avg(value) AS value FROM own WHERE method = 'oracle' GROUP BY ALL
),
annotated AS (SELECT DISTINCT backbone FROM oracle)
SELECT own.backbone, own.explainer, (hash(own.key) % 256)::INT AS bucket, count(*) AS images,
       sum(random.value) AS random, sum(own.value) AS rival, sum(oracle.value) AS oracle
FROM own JOIN random USING (backbone, key) LEFT JOIN oracle USING (backbone, key)
WHERE own.role = 'rival'
AND (oracle.value IS NOT NULL OR own.backbone NOT IN (FROM annotated))
GROUP BY ALL ORDER BY ALL
