-- The images of each backbone, and how its labels are spread. labelled: images with a class that the
-- backbone knows; classes: those that occur; usual: the median number of images of a class; commonest:
-- the share of the largest class among the labelled images, in percent; outputs: number of the
-- backbone's own classes, null where it is not known.
WITH own AS (
    SELECT backbone, label FROM predicted_numbers
    WHERE dataset = getvariable('dataset') AND list_contains(getvariable('backbones'), backbone)
),
sizes AS (
    SELECT backbone, label, count(*) AS images FROM own WHERE label IS NOT NULL GROUP BY ALL
),
spread AS (
    SELECT backbone, count(*) AS classes, median(images) AS usual,
           1e2 * max(images) / sum(images) AS commonest
    FROM sizes GROUP BY backbone
),
heads_of_classes AS (
    SELECT backbone, nullif(count(number), 0) AS outputs FROM classes
    WHERE dataset = getvariable('dataset') GROUP BY backbone
)
SELECT backbone, count(*) AS images, count(label) AS labelled,
       coalesce(any_value(classes), 0) AS classes, any_value(usual) AS usual,
       any_value(commonest) AS commonest, any_value(outputs) AS outputs
FROM own LEFT JOIN spread USING (backbone) LEFT JOIN heads_of_classes USING (backbone)
GROUP BY backbone ORDER BY backbone
