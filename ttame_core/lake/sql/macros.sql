-- Metrics over any slice of `confidence`, in percent (ttame_core/metrics/confidence.py):
--   SELECT label, AD(p, p_masked) FROM confidence WHERE keep = 15 GROUP BY label

-- What one image loses, whether it rises, and what it gains. Doubles: sums of decimals are slow.
CREATE MACRO confidence_drop(p, p_masked) AS
    CASE WHEN p > p_masked THEN 1e2 * (p::DOUBLE - p_masked) / p ELSE 0e0 END;
CREATE MACRO confidence_rise(p, p_masked) AS CASE WHEN p_masked > p THEN 1e2 ELSE 0e0 END;
CREATE MACRO confidence_gain(p, p_masked) AS
    CASE WHEN p_masked > p THEN 1e2 * (p_masked::DOUBLE - p) / (1 - p) ELSE 0e0 END;

CREATE MACRO AD(p, p_masked) AS avg(confidence_drop(p, p_masked));
CREATE MACRO IC(p, p_masked) AS avg(confidence_rise(p, p_masked));
CREATE MACRO AG(p, p_masked) AS avg(confidence_gain(p, p_masked));

-- A metric's name: of its column or as the data says, with what completes it (AD@15, AD@15/blur).
CREATE MACRO metric_name(measure, metric, level, fill) AS
    coalesce(metric, measure) || coalesce('@' || printf('%g', level), '')
    || CASE WHEN fill IS NULL OR fill = 'zero' THEN '' ELSE '/' || fill END;
