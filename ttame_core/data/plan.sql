-- Which shard each input goes to.
--
-- In: listed (a row per input, as the source gives them), annotated (what the annotations hold, by
-- the path of the image without its suffix), the variable per_shard.
-- Out: plan (a row per input; those that are not taken have an empty shard and a reason), labels,
-- shard_digests and rejected_lines (what fingerprints them).

CREATE TABLE once AS
SELECT * EXCLUDE (nth), CASE WHEN nth > 1 THEN 'listed more than once' ELSE reason END AS why
FROM (SELECT *, row_number() OVER (PARTITION BY path ORDER BY rowid) AS nth FROM listed);

CREATE VIEW labels AS
SELECT DISTINCT label FROM once WHERE label IS NOT NULL AND why = '';

-- Annotations by path without suffix: `class/stem`; where that finds nothing, by a stem that is the
-- only one of its name on both sides.
CREATE MACRO bare(path) AS regexp_replace(path, '\.[^./]*$', '');
CREATE MACRO stem(path) AS regexp_extract(bare(path), '[^/]*$');

CREATE TABLE images AS SELECT path, bare(path) AS bare, stem(path) AS stem FROM once WHERE why = '';

CREATE TABLE by_path AS
SELECT images.path, annotated.* EXCLUDE (bare)
FROM images JOIN annotated USING (bare);

CREATE TABLE by_stem AS
WITH free_images AS (
    SELECT stem, any_value(path) AS path FROM images
    WHERE path NOT IN (SELECT path FROM by_path)
    GROUP BY stem HAVING count(*) = 1
),
free_annotations AS (
    SELECT stem(bare || '.x') AS stem, any_value(annotated) AS found FROM annotated
    WHERE name NOT IN (SELECT name FROM by_path)
    GROUP BY 1 HAVING count(*) = 1
)
SELECT path, found.name, found.location, found.boxes, found.stamp
FROM free_images JOIN free_annotations USING (stem);

CREATE TABLE matched AS
SELECT path, any_value(name) AS name, any_value(location) AS location, any_value(boxes) AS boxes,
       any_value(stamp) AS stamp
FROM (FROM by_path UNION ALL BY NAME FROM by_stem)
GROUP BY path;

-- The number of shards of a split is a power of two, so that it changes seldom; a shard is the
-- first bits of the samples' rank.
CREATE TABLE shard_counts AS
SELECT split, greatest(0, ceil(log2(count(*) / getvariable('per_shard'))))::INT AS bits
FROM once WHERE why = '' GROUP BY split;

CREATE TABLE plan AS
SELECT
    CASE WHEN why = '' THEN
        once.split || '-' || lpad(
            (CASE WHEN bits = 0 THEN 0 ELSE rank >> (64 - bits)::UBIGINT END)::VARCHAR, 6, '0')
    ELSE '' END AS shard,
    rank, key, path, once.location, label, once.split, once.stamp, kind, why AS reason,
    matched.location AS annotation, matched.name AS annotation_path, matched.boxes,
    matched.stamp AS annotation_stamp
FROM once LEFT JOIN matched USING (path) LEFT JOIN shard_counts USING (split)
UNION ALL BY NAME
SELECT '' AS shard, name AS path, 'annotation' AS kind, 'belongs to no image' AS reason
FROM annotated
WHERE name NOT IN (SELECT name FROM matched);

CREATE VIEW shard_digests AS
SELECT shard, md5(string_agg(
    concat_ws('|', key, path, label, stamp, annotation_path, annotation_stamp), chr(10)
    ORDER BY rank, path)) AS digest
FROM plan WHERE shard <> '' GROUP BY shard;

-- What is not taken, which may be more than a digest of one group can hold.
CREATE TABLE rejected_lines AS
SELECT concat_ws('|', path, kind, reason) AS line FROM plan WHERE shard = ''
ORDER BY path, kind, reason;
