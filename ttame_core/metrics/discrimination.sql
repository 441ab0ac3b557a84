/*
order: 20
family: backbone
from: confidence
metrics:
  discrimination:
    {better: higher, unit: "%", principal: false,
     description: AD@15 of random maps less that of annotated objects}
*/
-- The distance of random maps and annotated objects in AD@15. Where it is small, the classifier cannot
-- read masked images, and AD and IC rank nothing.
SELECT dataset, backbone, '-' AS explainer, key,
       avg(confidence_drop(p, p_masked)) FILTER (method = 'random')
       - avg(confidence_drop(p, p_masked)) FILTER (method = 'oracle') AS discrimination
FROM confidence JOIN explainers USING (dataset, backbone, explainer)
WHERE target = predicted AND keep = 15 AND fill = 'zero' AND method IN ('random', 'oracle')
GROUP BY dataset, backbone, key
