-- Metrics over any slice of `confidence`, in percent (ttame_core/metrics/confidence.py):
--   SELECT label, AD(p, p_masked) FROM confidence WHERE keep = 15 GROUP BY label

-- The drop, the rise and the gain of one image. They are doubles, because sums of decimals are slow.
CREATE MACRO confidence_drop(p, p_masked) AS
    CASE WHEN p > p_masked THEN 1e2 * (p::DOUBLE - p_masked) / p ELSE 0e0 END;
CREATE MACRO confidence_rise(p, p_masked) AS CASE WHEN p_masked > p THEN 1e2 ELSE 0e0 END;
CREATE MACRO confidence_gain(p, p_masked) AS
    CASE WHEN p_masked > p THEN 1e2 * (p_masked::DOUBLE - p) / (1 - p) ELSE 0e0 END;

CREATE MACRO AD(p, p_masked) AS avg(confidence_drop(p, p_masked));
CREATE MACRO IC(p, p_masked) AS avg(confidence_rise(p, p_masked));
CREATE MACRO AG(p, p_masked) AS avg(confidence_gain(p, p_masked));

-- The harmonic mean of coherency, 1 - complexity and 1 - drop (ttame_core/metrics/adcc.py), in [0, 1]:
--   SELECT explainer, ADCC(avg(coherency), avg(complexity), avg("drop")) FROM adcc GROUP BY ALL
CREATE MACRO ADCC(coherency, complexity, lost) AS
    CASE WHEN coherency > 0 AND complexity < 1 AND lost < 1
    THEN 3 / (1 / coherency::DOUBLE + 1 / (1 - complexity::DOUBLE) + 1 / (1 - lost::DOUBLE)) ELSE 0 END;

-- The size of objects, by the share of the view that they cover (object_share of `localization`).
CREATE MACRO object_size(share) AS
    CASE WHEN share < 0.1 THEN 'small' WHEN share < 0.3 THEN 'medium' ELSE 'large' END;

-- The first position, from 1, of a list's highest value.
CREATE MACRO first_best(list) AS list_position(list, list_max(list));

-- Whether the level lies in a run, 1 or 0: levels at which a run begins and ends, in turn. A level
-- of NULL, where no image has a run, lies in none.
CREATE MACRO found_at(levels, level) AS
    len(list_filter(levels, lambda l: l <= coalesce(level, -1))) % 2;

-- A metric's name: that of its column, or the text in the column `metric`, completed by level and fill
-- (AD@15, AD@15/blur).
CREATE MACRO metric_name(measure, metric, level, fill) AS
    coalesce(metric, measure) || coalesce('@' || printf('%g', level), '')
    || coalesce('/' || fill, '');

-- Method and role of an explainer by its name, for workspaces and records that were written before
-- there were files of roles. NULL for '-', which is no explainer.
CREATE MACRO named_role(explainer) AS {
    'method': CASE WHEN explainer <> '-' THEN regexp_replace(explainer, '-permuted$', '') END,
    'role': CASE
        WHEN explainer = '-' THEN NULL
        WHEN explainer IN ('oracle', 'random', 'center', 'edges') THEN 'yardstick'
        WHEN explainer GLOB '*-permuted' THEN 'control' ELSE 'rival'
    END,
    'control_of': CASE WHEN explainer GLOB '*-permuted'
        THEN regexp_replace(explainer, '-permuted$', '') END
};
