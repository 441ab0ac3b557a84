-- What each metric is: the patterns are disjoint, in reading order; a metric that none matches has no
-- direction, no unit and no rank. principal: shown where there is no room for all.
CREATE TABLE metrics AS
SELECT row_number() OVER () AS place, * FROM (VALUES
    ('accuracy', 'backbone', false, '%', false, 'the classifier is right'),
    ('discrimination', 'backbone', false, '%', false, 'AD@15 of random maps less that of annotated objects'),
    ('AD@*', 'confidence', true, '%', true, 'average drop: confidence lost on the masked image'),
    ('IC@*', 'confidence', false, '%', true, 'increase in confidence: images on which it rises'),
    ('AG@*', 'confidence', false, '%', false, 'average gain: missing confidence that is gained'),
    ('ROAD*', 'road', false, '%', true, 'LeRF less MoRF, halved'),
    ('MoRF*', 'road', true, '%', false, 'after the most relevant pixels are removed'),
    ('LeRF*', 'road', false, '%', false, 'after the least relevant pixels are removed'),
    ('insertion*', 'curves', false, '%', true, 'area under the curve as pixels are inserted'),
    ('deletion*', 'curves', true, '%', true, 'area under the curve as pixels are deleted'),
    ('pointing_game*', 'localization', false, '%', true, 'the maximum lies on the object'),
    ('energy_in_box*', 'localization', false, '%', true, 'share of the map that lies in the boxes'),
    ('weighting_game*', 'localization', false, '%', false, 'share of the map that lies on the object'),
    ('box_iou*', 'localization', false, '%', true, 'overlap of boxes'),
    ('pixel_iou*', 'localization', false, '%', false, 'overlap of masks'),
    ('max_box_acc*', 'localization', false, '%', false, 'images whose box is found'),
    ('average_precision*', 'localization', false, '%', false, 'of the pixels of the object'),
    ('complexity*', 'shape', true, '', false, 'how much of the image the map covers'),
    ('sparseness*', 'shape', false, '', false, 'Gini coefficient of the map'),
    ('ADCC*', 'adcc', false, '%', true, 'average drop, coherency and complexity in one'),
    ('coherency*', 'adcc', false, '', false, 'the masked image gives the same map'),
    ('max_sensitivity*', 'robustness', true, '', true, 'how far little noise moves the map'),
    ('sanity_*', 'sanity', true, '', true, 'similarity of the maps once weights are destroyed'),
    ('seconds', 'cost', true, 's', true, 'time per map'),
    ('forward_passes', 'cost', true, 'passes', true, 'through the classifier, per map'),
    ('backward_passes', 'cost', true, 'passes', false, 'through the classifier, per map')
) AS listed(pattern, family, lower_is_better, unit, principal, description);

-- Explainers that others are measured by, as patterns: they win and lose nothing.
CREATE TABLE yardsticks AS
SELECT * FROM (VALUES ('oracle'), ('random'), ('center'), ('edges'), ('*-permuted'))
    AS listed(explainer);
