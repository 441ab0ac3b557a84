-- Every metric of every dataset, backbone and explainer, in percent, with its 95 % interval and the
-- number of images behind it. Only maps of the model truth count (target = predicted).
-- What is a backbone's own (accuracy, discrimination) has the explainer '-'.

CREATE VIEW leaderboard AS
WITH of_confidence AS (
    SELECT
        dataset, backbone, explainer, keep, count(*) AS n,
        AD(p, p_masked) AS ad, stddev_samp(confidence_drop(p, p_masked)) AS ad_deviation,
        IC(p, p_masked) AS ic,
        AG(p, p_masked) AS ag, stddev_samp(confidence_gain(p, p_masked)) AS ag_deviation
    FROM confidence WHERE target = predicted GROUP BY ALL
),
of_places AS (
    SELECT
        dataset, backbone, explainer, count(*) AS n,
        100.0 * avg(pointing_game::INT) AS hits,
        100 * avg(energy_in_box) AS energy, 100 * stddev_samp(energy_in_box) AS energy_deviation
    FROM localization WHERE target = predicted GROUP BY ALL
),
-- One threshold for a whole data set, backbone and explainer: the one that serves it best.
at_thresholds AS (
    SELECT
        dataset, backbone, explainer, place, count(*) AS n,
        100 * avg(overlap) AS iou, 100 * stddev_samp(overlap) AS deviation
    FROM (
        SELECT dataset, backbone, explainer, unnest(box_iou) AS overlap,
               generate_subscripts(box_iou, 1) AS place
        FROM localization WHERE target = predicted
    )
    GROUP BY dataset, backbone, explainer, place
    QUALIFY row_number() OVER (
        PARTITION BY dataset, backbone, explainer ORDER BY iou DESC, place
    ) = 1
),
of_predictions AS (
    SELECT dataset, backbone, count(*) AS n, 100.0 * avg((label = predicted)::INT) AS accuracy
    FROM predictions GROUP BY ALL
),
-- How far apart random maps and the annotated objects are in AD@15: where it is little, the
-- classifier cannot read masked images, and AD and IC rank nothing.
ends AS (
    SELECT
        dataset, backbone, key,
        max(confidence_drop(p, p_masked)) FILTER (explainer = 'random')
        - max(confidence_drop(p, p_masked)) FILTER (explainer = 'oracle') AS distance
    FROM confidence
    WHERE target = predicted AND keep = 15 AND explainer IN ('random', 'oracle')
    GROUP BY ALL
),
of_ends AS (
    SELECT dataset, backbone, count(*) AS n, avg(distance) AS mean,
           stddev_samp(distance) AS deviation
    FROM ends WHERE distance IS NOT NULL GROUP BY ALL
)
SELECT dataset, backbone, explainer, 'AD@' || printf('%g', keep) AS metric, ad AS value,
       mean_low(ad, ad_deviation, n, 0.0) AS ci_low, mean_high(ad, ad_deviation, n) AS ci_high,
       n AS images
FROM of_confidence
UNION ALL
SELECT dataset, backbone, explainer, 'IC@' || printf('%g', keep), ic,
       wilson(ic, n, -1), wilson(ic, n, 1), n
FROM of_confidence
UNION ALL
SELECT dataset, backbone, explainer, 'AG@' || printf('%g', keep), ag,
       mean_low(ag, ag_deviation, n, 0.0), mean_high(ag, ag_deviation, n), n
FROM of_confidence
UNION ALL
SELECT dataset, backbone, explainer, 'pointing_game', hits,
       wilson(hits, n, -1), wilson(hits, n, 1), n
FROM of_places
UNION ALL
SELECT dataset, backbone, explainer, 'energy_in_box', energy,
       mean_low(energy, energy_deviation, n, 0.0), mean_high(energy, energy_deviation, n), n
FROM of_places
UNION ALL
SELECT dataset, backbone, explainer, 'box_iou', iou,
       mean_low(iou, deviation, n, 0.0), mean_high(iou, deviation, n), n
FROM at_thresholds
UNION ALL
SELECT dataset, backbone, '-', 'accuracy', accuracy,
       wilson(accuracy, n, -1), wilson(accuracy, n, 1), n
FROM of_predictions
UNION ALL
SELECT dataset, backbone, '-', 'discrimination', mean,
       mean_low(mean, deviation, n, -100.0), mean_high(mean, deviation, n), n
FROM of_ends;
