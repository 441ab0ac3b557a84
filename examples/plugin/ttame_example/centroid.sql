/*
columns: {x: FLOAT, y: FLOAT, distance: FLOAT}  # a row per map; shares of the image's sides
metrics:
  centroid_distance:
    better: lower
    unit: "%"
    description: from the map's middle to the nearest object's, of the diagonal
*/
-- How far the middle of each map is from the nearest object's, in percent of the image's diagonal.
SELECT dataset, backbone, explainer, key, 100 * distance AS centroid_distance
FROM centroid WHERE target = predicted
