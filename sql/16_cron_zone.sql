-- The next time in a zone whose clocks change.
--
-- The rule is that of cron in Debian, as in the Python package cronsim. An expression with fixed minutes and hours is
-- about wall time: a time that is skipped counts once, when the skip ends, and one that is repeated counts the first
-- time only. One whose minute or hour begins with * is about time that passes: it fires whenever the clocks show a time
-- that it names.
--
-- All arithmetic is on timestamps in UTC, because a timestamptz depends on TimeZone when days are added to it.

CREATE FUNCTION _pgq_wall(at timestamp, timezone text) RETURNS timestamp
    LANGUAGE sql
    IMMUTABLE
    RETURN (at AT TIME ZONE 'UTC') AT TIME ZONE timezone;

COMMENT ON FUNCTION _pgq_wall(timestamp, text) IS
    'Return what the clocks of a time zone show at a time in UTC.';


-- Two changes within a day would be missed; there is no such zone.
CREATE FUNCTION _pgq_clock_change(since timestamp, until timestamp, timezone text) RETURNS timestamp
    LANGUAGE plpgsql
    IMMUTABLE
    SET search_path FROM CURRENT
AS $_pgq_clock_change$
DECLARE
    v_offset interval := _pgq_wall(since, timezone) - since;
    v_middle timestamp;
BEGIN
    IF _pgq_wall(until, timezone) - until = v_offset THEN
        RETURN NULL;
    END IF;
    WHILE until - since > interval '1 second' LOOP
        v_middle := date_trunc('second', since + (until - since) / 2);
        IF _pgq_wall(v_middle, timezone) - v_middle = v_offset THEN
            since := v_middle;
        ELSE
            until := v_middle;
        END IF;
    END LOOP;
    RETURN until;
END
$_pgq_clock_change$;

COMMENT ON FUNCTION _pgq_clock_change(timestamp, timestamp, text) IS
    'Return when, after one time in UTC and up to another, the clocks of a time zone change; NULL if they do not. The '
    'two times are whole seconds, at most a day apart.';


CREATE FUNCTION _pgq_cron_next_fixed(cron _pgq_cron, after timestamp, timezone text) RETURNS timestamp
    LANGUAGE plpgsql
    IMMUTABLE
    SET search_path FROM CURRENT
AS $_pgq_cron_next_fixed$
DECLARE
    c_day CONSTANT interval := '24 hours';
    v_wall timestamp := _pgq_wall(after, timezone);
    v_at timestamp;
    v_before timestamp;
    v_end timestamp;
BEGIN
    LOOP
        v_wall := _pgq_cron_next_wall(cron, v_wall);
        IF v_wall IS NULL THEN
            RETURN NULL;
        END IF;
        -- PostgreSQL takes a repeated time for the second one, and a skipped time as if the clocks had not changed yet.
        v_at := (v_wall AT TIME ZONE timezone) AT TIME ZONE 'UTC';
        v_before := v_at - c_day;
        IF _pgq_wall(v_at, timezone) <> v_wall THEN
            v_at := _pgq_clock_change(v_before, v_at, timezone);
            v_end := _pgq_wall(v_at, timezone);
            v_at := v_at + (date_trunc('minute', v_end + interval '59 seconds') - v_end);
        ELSIF _pgq_wall(v_wall - (_pgq_wall(v_before, timezone) - v_before), timezone) = v_wall THEN
            v_at := v_wall - (_pgq_wall(v_before, timezone) - v_before);
        END IF;
        -- A repeated time has passed where "after" is in the repetition.
        IF v_at > after THEN
            RETURN v_at;
        END IF;
    END LOOP;
END
$_pgq_cron_next_fixed$;

COMMENT ON FUNCTION _pgq_cron_next_fixed(_pgq_cron, timestamp, text) IS
    'Return the first time after another, both in UTC, at which a cron expression with fixed minutes and hours fires '
    'in a time zone; NULL if there is none.';


CREATE FUNCTION _pgq_cron_next_passing(cron _pgq_cron, after timestamp, timezone text) RETURNS timestamp
    LANGUAGE plpgsql
    IMMUTABLE
    SET search_path FROM CURRENT
AS $_pgq_cron_next_passing$
DECLARE
    c_day CONSTANT interval := '24 hours';
    v_wall timestamp := _pgq_wall(after, timezone);
    v_offset interval := v_wall - after;
    v_named timestamp;
    v_at timestamp;
    v_change timestamp;
BEGIN
    LOOP
        v_named := _pgq_cron_next_wall(cron, v_wall);
        IF v_named IS NULL THEN
            RETURN NULL;
        END IF;
        v_at := v_named - v_offset;
        v_change := _pgq_clock_change(after, after + c_day, timezone);
        IF v_at < v_change OR (v_change IS NULL AND v_at <= after + c_day) THEN
            RETURN v_at;
        END IF;
        IF v_change IS NULL THEN
            -- No change moves the clocks by more than a day, so none of the times up to here is named.
            after := greatest(after + c_day, v_at - 2 * c_day);
            v_wall := _pgq_wall(after, timezone);
            v_offset := v_wall - after;
        ELSE
            -- The first time that the clocks show after the change counts, too.
            after := v_change;
            v_wall := _pgq_wall(after, timezone);
            v_offset := v_wall - after;
            v_wall := v_wall - interval '1 microsecond';
        END IF;
    END LOOP;
END
$_pgq_cron_next_passing$;

COMMENT ON FUNCTION _pgq_cron_next_passing(_pgq_cron, timestamp, text) IS
    'Return the first time after another, both in UTC, at which the clocks of a time zone show a time that a cron '
    'expression names; NULL if there is none.';
