-- Checks of values that several functions share. They are SQL expressions, so that PostgreSQL inlines them; NULL gives
-- NULL.

CREATE FUNCTION _pgq_is_name(name text) RETURNS boolean
    LANGUAGE sql
    IMMUTABLE
    RETURN octet_length(name) BETWEEN 1 AND 200 AND strpos(name, E'\x1f') = 0;

COMMENT ON FUNCTION _pgq_is_name(text) IS
    'Return whether a text can be the name of a queue or kind, or the key of a group: 1 to 200 bytes without U+001F, '
    'the separator in signatures.';


-- From 1 to the number before that of the waiting room (see _pgq_room). Two keys with the same number share their
-- limits and their order: of a million groups, hardly any two.
CREATE FUNCTION _pgq_group_id(group_key text) RETURNS bigint
    LANGUAGE sql
    IMMUTABLE
    RETURN CASE
        WHEN group_key IS NOT NULL
            THEN greatest(least(hashtextextended(group_key COLLATE "C", 0) & 9223372036854775807,
                                9223372036854775806), 1)
    END;

COMMENT ON FUNCTION _pgq_group_id(text) IS
    'Return the number of a group, by which claims find its jobs: a hash of its key, from 1 on; NULL for '
    'NULL.';


-- Months and days of opposite signs can make an interval that is small when compared, but large or negative when added.
CREATE FUNCTION _pgq_is_in_range(span interval, at timestamptz, longest interval) RETURNS boolean
    LANGUAGE sql
    STABLE
    RETURN span BETWEEN interval '0' AND longest AND at + span BETWEEN at AND at + longest;

COMMENT ON FUNCTION _pgq_is_in_range(interval, timestamptz, interval) IS
    'Return whether an interval is from 0 to longest, both when compared and when added to a time.';
