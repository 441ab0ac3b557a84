-- Labelled pictures, normalised in the other usual ways, for each backbone whose pictures were. pictures:
-- number of pictures. before: mean probability of the label in %, normalised as the spec's `preprocessing`
-- says. way, after: the way in which that rises most, and what it rises to; null where it rises by less
-- than 2 points, or by less than 3 of its standard errors, in every way. right_before, right_after: the
-- accuracy in %, as the spec says and in that way; null in files of before it was kept.
WITH rises AS (
    SELECT backbone, source AS way, count(*) AS pictures, 100 * avg(before) AS before,
           100 * avg(after) AS after, 100 * avg(after - before) AS rise,
           100 * stddev_samp(after - before) / sqrt(count(*)) AS standard_error,
           100 * avg(right_before::INT) AS right_before, 100 * avg(right_after::INT) AS right_after
    FROM pasted
    WHERE dataset = getvariable('dataset') AND list_contains(getvariable('backbones'), backbone)
    AND aspect = 'normalised'
    GROUP BY ALL
)
SELECT backbone, max(pictures) AS pictures, max(before) AS before, max(right_before) AS right_before,
       arg_max(way, rise) FILTER (clear) AS way, arg_max(after, rise) FILTER (clear) AS after,
       arg_max(right_after, rise) FILTER (clear) AS right_after
FROM (SELECT *, rise >= 2 AND rise >= 3 * standard_error AS clear FROM rises)
GROUP BY backbone
ORDER BY backbone
