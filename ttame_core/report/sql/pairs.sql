-- Values of a backbone's best explainer (a) and of the next one (b), a row per image and metric.
-- In: contests (metric, best, second), own_values (the record's values.parquet).
SELECT metric, (hash(key) % 256)::INT AS bucket, one.value::DOUBLE AS a, two.value::DOUBLE AS b
FROM contests
JOIN own_values AS one USING (metric)
JOIN own_values AS two USING (metric, backbone, key)
WHERE one.backbone = getvariable('backbone') AND one.explainer = best AND two.explainer = second
ORDER BY metric, key
