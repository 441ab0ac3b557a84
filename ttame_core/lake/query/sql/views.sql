-- The views that `ttame query` reads. In: a table files_… for each kind of file of the lake, with
-- `filename` and the Hive partitions as columns.

CREATE MACRO dataset_of(filename) AS regexp_extract(filename, 'datasets/([^/]+)/[^/]+$', 1);

-- The name (part 1) or the time (part 2) of the audit that a file belongs to.
CREATE MACRO audit_of(filename, part) AS
    regexp_extract(filename, 'audits/([^/]+)/([^/]+)/[^/]+$', part);

CREATE VIEW samples AS
SELECT dataset_of(filename) AS dataset, * EXCLUDE (filename)
FROM files_samples;

CREATE VIEW boxes AS
SELECT dataset_of(filename) AS dataset, * EXCLUDE (filename)
FROM files_boxes;

CREATE VIEW rejected AS
SELECT dataset_of(filename) AS dataset, * EXCLUDE (filename)
FROM files_rejected;

CREATE VIEW shards AS
SELECT dataset_of(filename) AS dataset, * EXCLUDE (filename)
FROM files_shards;

-- A row per image, explainer and target class. Files hold `map`, or `map_uint8` in 255ths.
CREATE VIEW maps AS
SELECT dataset, backbone, explainer, regexp_extract(filename, '([^/]+)\.parquet$', 1) AS shard,
       * EXCLUDE (dataset, backbone, explainer, filename, map_uint8)
         REPLACE (coalesce(map, list_transform(map_uint8, lambda x: x / 255)) AS map)
FROM files_maps;

-- Explainers that do not apply to a backbone, and why.
CREATE VIEW refusals AS
SELECT DISTINCT
    regexp_extract(file_name, 'dataset=([^/]+)', 1) AS dataset,
    regexp_extract(file_name, 'backbone=([^/]+)', 1) AS backbone,
    regexp_extract(file_name, 'explainer=([^/]+)', 1) AS explainer,
    decode(value) AS reason
FROM files_metadata WHERE decode(key) = 'ttame.not_applicable';

-- The method and the role (rival, yardstick or control) of each explainer, and for a control, the
-- explainer that it is compared with. In: partitions, all explainers with maps or scores.
CREATE VIEW explainers AS
SELECT dataset, backbone, explainer, method, role, control_of FROM files_explainers
UNION ALL
SELECT dataset, backbone, explainer, unnest(named_role(explainer))
FROM partitions ANTI JOIN files_explainers USING (dataset, backbone, explainer);

-- What each classifier calls its classes: a row per class, with the classes of the data set that it
-- is. A row without a number is of classes of the data set that the classifier does not have.
CREATE VIEW classes AS
SELECT dataset, backbone, number, name, wnid, definition, classes, labels, rule FROM files_classes;

-- The name of a classifier's class for readers.
CREATE MACRO class_name(number, name) AS coalesce(name, 'class ' || number);

-- What each classifier says of each image, in numbers of its own classes; of several predicted ones,
-- the most probable. label: null where the image has none, or none that the classifier knows; of
-- several, the predicted one where it is among them.
CREATE VIEW predicted_numbers AS
SELECT dataset, backbone, key,
       coalesce(arg_max(label, probability), any_value(label)) AS label,
       coalesce(arg_max(predicted, probability), any_value(predicted)) AS predicted,
       max(probability) FILTER (target = predicted) AS probability
FROM maps GROUP BY ALL;

-- The same with names: class is the image's own, predicted_class what the classifier takes it for.
CREATE VIEW predictions AS
SELECT p.dataset, p.backbone, key, label, predicted, probability,
       CASE WHEN label IS NOT NULL THEN class_name(label, own.name) END AS class,
       class_name(predicted, its.name) AS predicted_class
FROM predicted_numbers AS p
LEFT JOIN classes AS own
    ON own.dataset = p.dataset AND own.backbone = p.backbone AND own.number = p.label
LEFT JOIN classes AS its
    ON its.dataset = p.dataset AND its.backbone = p.backbone AND its.number = p.predicted;

-- What becomes of pictures when the marked part of one whose class has maps that are alike is pasted
-- onto them, or when they are changed as a whole (aspect = 'whole').
CREATE VIEW pasted AS
SELECT dataset, backbone, * EXCLUDE (dataset, backbone, filename) FROM files_pasted;

-- The training of each head: a row per recorded step, and one per validation and metric. `confidence`
-- is the term of `training.objective`, whatever its name is. Files hold a row per term, and the names of
-- metrics have an @; earlier files have the columns of the view.
CREATE VIEW heads AS
SELECT dataset, backbone, explainer, epoch, step, loss, variation, area, confidence, metric, value,
       CAST(NULL AS FLOAT) AS distance
FROM files_heads WHERE term IS NULL
UNION ALL
SELECT dataset, backbone, explainer, epoch, step,
       max(value) FILTER (term = 'loss'), max(value) FILTER (term = 'variation'),
       max(value) FILTER (term = 'area'),
       max(value) FILTER (term NOT IN ('loss', 'variation', 'area', 'distance')), NULL, NULL,
       max(value) FILTER (term = 'distance')
FROM files_heads WHERE term NOT GLOB '*@*' GROUP BY ALL
UNION ALL
SELECT dataset, backbone, explainer, epoch, step, NULL, NULL, NULL, NULL, term, value, NULL
FROM files_heads WHERE term GLOB '*@*';

-- The trials of `ttame sweep`: a row per trial and metric of the validation split.
CREATE VIEW sweeps AS
SELECT dataset, backbone, explainer, regexp_extract(filename, '([^/]+)\.parquet$', 1) AS trial,
       * EXCLUDE (dataset, backbone, explainer, filename)
FROM files_sweeps;

-- The leaderboards in audits' records.
CREATE VIEW audits AS
SELECT audit_of(filename, 1) AS name, audit_of(filename, 2) AS timestamp,
       * EXCLUDE (filename) REPLACE (
           coalesce(method, named_role(explainer).method) AS method,
           coalesce(role, named_role(explainer).role) AS role
       )
FROM files_audits;

-- The recorded values of single images, which are the same images in every audit, for comparisons.
CREATE VIEW audit_values AS
SELECT audit_of(filename, 1) AS name, audit_of(filename, 2) AS timestamp,
       * EXCLUDE (filename)
FROM files_audit_values;

-- The maps of these images at 14×14, centred and of unit norm.
CREATE VIEW audit_thumbnails AS
SELECT audit_of(filename, 1) AS name, audit_of(filename, 2) AS timestamp,
       * EXCLUDE (filename)
FROM files_audit_thumbnails;

-- The changes since the last audit of the name, and whether the gates hold.
CREATE VIEW audit_changes AS
SELECT audit_of(filename, 1) AS name, audit_of(filename, 2) AS timestamp,
       * EXCLUDE (filename)
FROM files_audit_changes;
