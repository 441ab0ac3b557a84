-- The plan of a data set: the shard that each input goes to.
--
-- In: listed (a row per input of the source), annotated (a row per annotation, with the path of its
-- image without suffix), and the variable per_shard, the number of samples in a shard.
-- Out: plan (a row per input; rejected ones have an empty shard and a reason), labels, and for
-- fingerprints shard_digests and rejected_lines. Several labels of an image are one text, with
-- ttame_core.data.labels.SEVERAL, chr(31), between them.

CREATE TABLE once AS
SELECT * EXCLUDE (nth), CASE WHEN nth > 1 THEN 'listed more than once' ELSE reason END AS why
FROM (SELECT *, row_number() OVER (PARTITION BY path ORDER BY rowid) AS nth FROM listed);

-- Which annotation belongs to which image: that of the same path (1, 2) or of the same path without
-- suffix (3, 4); else that of the same file name (5) or of the same file name without suffix (6).
-- Each must be the only one on both sides, among those that have no partner yet. What has a split is
-- compared with the images of that split alone.
CREATE MACRO bare(path) AS regexp_replace(path, '\.[^./]*$', '');
CREATE MACRO base(path) AS regexp_extract(path, '[^/]*$');

CREATE TABLE image_names AS
WITH scopes AS (SELECT DISTINCT coalesce(split, '') AS scope FROM annotated WHERE reason = ''),
scoped AS (SELECT path, scope FROM once JOIN scopes ON scope IN ('', split) WHERE why = '')
SELECT path, scope, unnest(['path', 'bare', 'base', 'stem']) AS kind,
       unnest([path, bare(path), base(path), base(bare(path))]) AS name
FROM scoped;

CREATE TABLE annotation_names AS
WITH scoped AS (
    SELECT name, bare, coalesce(split, '') AS scope,
           CASE WHEN split IS NULL THEN name ELSE substr(name, length(split) + 2) END AS path,
           CASE WHEN split IS NULL THEN bare ELSE concat(split, '/', bare) END AS far
    FROM annotated WHERE reason = ''
)
SELECT name AS annotation, scope, unnest([1, 2, 3, 4, 5, 6]) AS step,
       unnest(['path', 'path', 'bare', 'bare', 'base', 'stem']) AS kind,
       unnest([name, path, far, bare, base(path), base(bare)]) AS name
FROM scoped;

CREATE TABLE pairs (path VARCHAR, annotation VARCHAR);
CREATE MACRO partners(first, last) AS TABLE
WITH lone_images AS (
    SELECT kind, scope, name, any_value(path) AS path FROM image_names
    WHERE path NOT IN (SELECT path FROM pairs)
    GROUP BY kind, scope, name HAVING count(*) = 1
),
lone_annotations AS (
    SELECT step, kind, scope, name, any_value(annotation) AS annotation FROM annotation_names
    WHERE step BETWEEN first AND last AND annotation NOT IN (SELECT annotation FROM pairs)
    GROUP BY step, kind, scope, name HAVING count(*) = 1
)
SELECT path, annotation
FROM lone_images JOIN lone_annotations USING (kind, scope, name)
QUALIFY row_number() OVER (PARTITION BY path ORDER BY step, annotation) = 1
    AND row_number() OVER (PARTITION BY annotation ORDER BY step, path) = 1;

INSERT INTO pairs FROM partners(1, 4);
INSERT INTO pairs FROM partners(5, 6);

CREATE TABLE matched AS
SELECT path, annotated.name, annotated.location, annotated.content, annotated.stamp, annotated.labels
FROM pairs JOIN annotated ON annotation = annotated.name;

-- The number of a split's shards is a power of two, so that it seldom changes. The first bits of a
-- sample's rank are the number of its shard.
CREATE TABLE shard_counts AS
SELECT split, greatest(0, ceil(log2(count(*) / getvariable('per_shard'))))::INT AS bits
FROM once WHERE why = '' GROUP BY split;

CREATE TABLE plan AS
SELECT
    CASE WHEN why = '' THEN
        once.split || '-' || lpad(
            (CASE WHEN bits = 0 THEN 0 ELSE rank >> (64 - bits)::UBIGINT END)::VARCHAR, 6, '0')
    ELSE '' END AS shard,
    rank, key, path, once.location, coalesce(label, matched.labels) AS label, once.split, once.stamp, kind, why AS reason,
    matched.location AS annotation, matched.name AS annotation_path, matched.content,
    matched.stamp AS annotation_stamp
FROM once LEFT JOIN matched USING (path) LEFT JOIN shard_counts USING (split)
WHERE NOT (kind = 'file' AND once.location IN (SELECT location FROM annotated))
UNION ALL BY NAME
SELECT '' AS shard, name AS path, 'annotation' AS kind,
    CASE WHEN reason <> '' THEN reason
         WHEN base(bare) IN (SELECT base(bare(path)) FROM once) THEN
             'belongs to no image alone: its name fits several, or those of another split'
         ELSE 'belongs to no image' END AS reason
FROM annotated
WHERE name NOT IN (SELECT name FROM matched);

CREATE VIEW labels AS
SELECT DISTINCT unnest(string_split(label, chr(31))) AS label FROM plan
WHERE label IS NOT NULL AND shard <> '';

CREATE VIEW shard_digests AS
SELECT shard, md5(string_agg(
    concat_ws('|', key, path, label, stamp, annotation_path, annotation_stamp), chr(10)
    ORDER BY rank, path)) AS digest
FROM plan WHERE shard <> '' GROUP BY shard;

-- A line for each rejected input; they may be too many to be hashed as one group.
CREATE TABLE rejected_lines AS
SELECT concat_ws('|', path, kind, reason) AS line FROM plan WHERE shard = ''
ORDER BY path, kind, reason;
