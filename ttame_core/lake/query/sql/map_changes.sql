-- The correlation of two audits' maps of each image at 14×14; 1 where both maps are the same, or both
-- flat. The maps explain the class that each audit predicted, which may differ.
--   FROM map_changes('zoo/20260102T020000Z', 'zoo/20260101T020000Z') ORDER BY correlation LIMIT 9
-- In: audit_thumbnails.
CREATE MACRO map_changes(audit, earlier) AS TABLE
SELECT backbone, explainer, key,
       CASE WHEN a.thumbnail = b.thumbnail THEN 1
       ELSE list_inner_product(a.thumbnail, b.thumbnail) END AS correlation
FROM (FROM audit_thumbnails WHERE name || '/' || timestamp = audit) AS a
JOIN (FROM audit_thumbnails WHERE name || '/' || timestamp = earlier) AS b
    USING (backbone, explainer, key);
