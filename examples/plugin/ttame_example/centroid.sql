-- How far the middle of each map is from the nearest object's, in percent of the image's diagonal.
SELECT dataset, backbone, explainer, key, 100 * distance AS centroid_distance
FROM centroid WHERE target = predicted
