/*
order: 10
family: backbone
metrics:
  accuracy: {better: higher, unit: "%", principal: false, description: the classifier is right}
*/
-- The accuracy of each classifier on each image whose class is known: 100 where it is right, else 0.
SELECT dataset, backbone, '-' AS explainer, key,
       CASE WHEN label = predicted THEN 100.0 ELSE 0.0 END AS accuracy
FROM predicted_numbers
WHERE label IS NOT NULL
