-- What each metric is: the patterns are disjoint, in reading order; a metric that none matches has no
-- direction, no unit and no rank. principal: shown where there is no room for all. The rows come from
-- the families (ttame_core/lake/families.py).
CREATE TABLE metrics (
    place BIGINT, pattern VARCHAR, family VARCHAR, lower_is_better BOOLEAN, unit VARCHAR,
    principal BOOLEAN, description VARCHAR
);
