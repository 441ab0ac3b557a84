-- The family, direction and unit of each metric, in reading order. No name matches two patterns; a
-- metric that matches none has no direction, no unit and no rank. principal: whether the metric is
-- shown where there is no room for all. The rows come from ttame_core/lake/families.py.
CREATE TABLE metrics (
    place BIGINT, pattern VARCHAR, family VARCHAR, lower_is_better BOOLEAN, unit VARCHAR,
    principal BOOLEAN, description VARCHAR
);
