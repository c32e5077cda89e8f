-- Checks of values that several functions share. They are SQL expressions, so that PostgreSQL inlines them; NULL gives
-- NULL.

CREATE FUNCTION _pgq_is_name(name text) RETURNS boolean
    LANGUAGE sql
    IMMUTABLE
    RETURN octet_length(name) BETWEEN 1 AND 200 AND strpos(name, E'\x1f') = 0;

COMMENT ON FUNCTION _pgq_is_name(text) IS
    'Return whether a text can be the name of a queue or kind: 1 to 200 bytes without U+001F, the separator in '
    'signatures.';


-- Months and days of opposite signs can make an interval that is small when compared, but large or negative when added.
CREATE FUNCTION _pgq_is_in_range(span interval, at timestamptz, longest interval) RETURNS boolean
    LANGUAGE sql
    STABLE
    RETURN span BETWEEN interval '0' AND longest AND at + span BETWEEN at AND at + longest;

COMMENT ON FUNCTION _pgq_is_in_range(interval, timestamptz, interval) IS
    'Return whether an interval is from 0 to longest, both when compared and when added to a time.';
