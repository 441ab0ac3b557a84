-- Every metric by the size of the annotated objects: the mean over the images whose objects cover less
-- than 10 % of the view (small), less than 30 % (medium), and more (large).
-- In: metric_values, localization.
CREATE VIEW by_object_size AS
WITH sizes AS (
    SELECT dataset, backbone, key, object_size(any_value(object_share)) AS size
    FROM localization GROUP BY ALL
)
SELECT dataset, backbone, explainer, size, metric, avg(value) AS value, count(*) AS images
FROM metric_values JOIN sizes USING (dataset, backbone, key)
GROUP BY ALL;
