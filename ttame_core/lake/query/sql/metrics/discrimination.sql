-- How far apart random maps and the annotated objects are in AD@15: where it is little, the
-- classifier cannot read masked images, and AD and IC rank nothing.
SELECT dataset, backbone, '-' AS explainer, key,
       max(confidence_drop(p, p_masked)) FILTER (explainer = 'random')
       - max(confidence_drop(p, p_masked)) FILTER (explainer = 'oracle') AS discrimination
FROM confidence
WHERE target = predicted AND keep = 15 AND fill = 'zero' AND explainer IN ('random', 'oracle')
GROUP BY ALL
