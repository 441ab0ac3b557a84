-- Wrong predictions, the most confident first. value: probability in percent; images: number of wrong
-- predictions of the backbone; sure: number of those with at least 90 %.
WITH placed AS (
    SELECT backbone, count(*) AS images, count(*) FILTER (probability >= 0.9) AS sure,
           arg_min({'key': key, 'value': 1e2 * probability}, row(-probability, md5(key)), 8) AS first
    FROM predicted_numbers
    WHERE dataset = getvariable('dataset') AND label <> predicted
    AND list_contains(getvariable('backbones'), backbone)
    GROUP BY backbone
)
SELECT backbone, 'wrong' AS kind, place, first[place].key AS key, first[place].value AS value, images,
       sure
FROM placed, unnest(range(1, len(first) + 1)) AS places(place)
ORDER BY value DESC, key, backbone
