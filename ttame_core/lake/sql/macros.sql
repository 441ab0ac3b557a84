-- Metrics over any slice of `confidence`, in percent (ttame_core/metrics/confidence.py):
--   SELECT label, AD(p, p_masked) FROM confidence WHERE keep = 15 GROUP BY label

-- What one image loses, whether it rises, and what it gains.
CREATE MACRO confidence_drop(p, p_masked) AS
    CASE WHEN p > 0 THEN 100 * greatest(0, p::DOUBLE - p_masked) / p ELSE 0 END;
CREATE MACRO confidence_rise(p, p_masked) AS CASE WHEN p_masked > p THEN 100.0 ELSE 0.0 END;
CREATE MACRO confidence_gain(p, p_masked) AS
    CASE WHEN p < 1 THEN 100 * greatest(0, p_masked::DOUBLE - p) / (1 - p) ELSE 0 END;

CREATE MACRO AD(p, p_masked) AS avg(confidence_drop(p, p_masked));
CREATE MACRO IC(p, p_masked) AS avg(confidence_rise(p, p_masked));
CREATE MACRO AG(p, p_masked) AS avg(confidence_gain(p, p_masked));

-- 95 % intervals of values in percent. Of a mean of n values: normal approximation, within what the
-- metric can be. Of a share (values 0 or 100): Wilson's score interval.
CREATE MACRO mean_low(mean, deviation, n, least) AS
    greatest(least, mean - 1.959964 * deviation / sqrt(n));
CREATE MACRO mean_high(mean, deviation, n) AS least(100.0, mean + 1.959964 * deviation / sqrt(n));
CREATE MACRO wilson(share, n, side) AS
    100 * (share / 100 + 1.959964 ^ 2 / (2 * n)
           + side * 1.959964 * sqrt(share / 100 * (1 - share / 100) / n + 1.959964 ^ 2 / (4 * n ^ 2)))
    / (1 + 1.959964 ^ 2 / n);
