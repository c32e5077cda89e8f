-- What a cron expression says, as sets of minutes, hours, days, months and weekdays.
--
-- A set is a bit string: its first bit stands for the first value of the field, such as the first of the month. So the
-- next member of a set is found by position(), and the days of a month by AND and OR.

CREATE TYPE _pgq_cron AS (
    minutes       varbit,
    hours         varbit,
    days          varbit,
    months        varbit,
    weekdays      varbit,
    last_day      boolean,
    last_workday  boolean,
    nth_weekdays  varbit,
    last_weekdays varbit,
    both_days     boolean,
    wall_time     boolean
);

COMMENT ON TYPE _pgq_cron IS 'What the five fields of a cron expression say.';
COMMENT ON COLUMN _pgq_cron.minutes IS 'Minutes, from 0 to 59.';
COMMENT ON COLUMN _pgq_cron.hours IS 'Hours, from 0 to 23.';
COMMENT ON COLUMN _pgq_cron.days IS 'Days of the month, from 1 to 31.';
COMMENT ON COLUMN _pgq_cron.months IS 'Months, from 1 to 12.';
COMMENT ON COLUMN _pgq_cron.weekdays IS 'Days of the week, from 0 (Sunday) to 6.';
COMMENT ON COLUMN _pgq_cron.last_day IS 'Whether the last day of the month is among the days.';
COMMENT ON COLUMN _pgq_cron.last_workday IS
    'Whether the last day of the month that is no Saturday or Sunday is among the days.';
COMMENT ON COLUMN _pgq_cron.nth_weekdays IS
    'First to fifth Sunday of the month, then first to fifth Monday, and so on: five bits for each day of the week.';
COMMENT ON COLUMN _pgq_cron.last_weekdays IS 'Last Sunday of the month, last Monday, and so on.';
COMMENT ON COLUMN _pgq_cron.both_days IS
    'Whether a day must be among the days of the month and those of the week, and not only among one of them: one of '
    'the two fields begins with *.';
COMMENT ON COLUMN _pgq_cron.wall_time IS
    'Whether minutes and hours are fixed, so that a time that the clocks skip or repeat counts once: neither field '
    'begins with *.';


CREATE FUNCTION _pgq_raise_cron(cron text, item text, field text) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_raise_cron$
BEGIN
    RAISE EXCEPTION 'cron "%" has "%" as %', left(cron, 200), left(item, 200), field
        USING ERRCODE = 'invalid_parameter_value',
              HINT = CASE field
                         WHEN 'minute' THEN 'Use 0 to 59, *, ranges, lists and steps, such as */15.'
                         WHEN 'hour' THEN 'Use 0 to 23, *, ranges, lists and steps, such as 8-18/2.'
                         WHEN 'day of the month' THEN
                             'Use 1 to 31, *, ranges, lists and steps; L for the last day, LW for the last weekday.'
                         WHEN 'month' THEN 'Use 1 to 12 or jan to dec, *, ranges, lists and steps.'
                         ELSE 'Use 0 to 7 (both Sunday) or sun to sat, *, ranges, lists and steps; fri#2 for the '
                              'second Friday, 5L for the last Friday.'
                     END;
END
$_pgq_raise_cron$;

COMMENT ON FUNCTION _pgq_raise_cron(text, text, text) IS
    'Raise 22023: an item of a cron expression is not valid in its field.';


-- A step after a single value runs to the end of the field, as in 5/15; so it does after 5-5.
CREATE FUNCTION _pgq_cron_set(
    cron text,
    items text[],
    field text,
    lowest integer,
    highest integer,
    names text[] DEFAULT '{}'
) RETURNS varbit
    LANGUAGE plpgsql
    IMMUTABLE
    SET search_path FROM CURRENT
AS $_pgq_cron_set$
DECLARE
    v_set varbit := repeat('0', highest - lowest + 1)::varbit;
    v_item text;
    v_part text[];
    v_first integer;
    v_last integer;
    v_step integer;
BEGIN
    FOREACH v_item IN ARRAY items LOOP
        v_part := regexp_match(
            v_item COLLATE "C", '^(?:(\*)|([0-9]{1,9}|[A-Z]{3})(?:-([0-9]{1,9}|[A-Z]{3}))?)(?:/([0-9]{1,9}))?$');
        v_step := coalesce(v_part[4]::integer, 1);
        v_first := CASE
            WHEN v_part[1] = '*' THEN lowest
            WHEN v_part[2] ~ '^[0-9]' THEN v_part[2]::integer
            ELSE array_position(names, v_part[2]) - 1 + lowest
        END;
        v_last := CASE
            WHEN v_part[1] = '*' THEN highest
            WHEN v_part[3] IS NULL THEN v_first
            WHEN v_part[3] ~ '^[0-9]' THEN v_part[3]::integer
            ELSE array_position(names, v_part[3]) - 1 + lowest
        END;
        IF (v_first BETWEEN lowest AND highest AND v_last BETWEEN v_first AND highest AND v_step > 0) IS NOT TRUE THEN
            PERFORM _pgq_raise_cron(cron, v_item, field);
        END IF;
        IF v_part[4] IS NOT NULL AND v_last = v_first THEN
            v_last := highest;
        END IF;
        IF v_item = '*' THEN
            v_set := ~ repeat('0', highest - lowest + 1)::varbit;
        ELSE
            FOR v_n IN 0..(v_last - v_first) / v_step LOOP
                v_set := set_bit(v_set, v_first - lowest + v_n * v_step, 1);
            END LOOP;
        END IF;
    END LOOP;
    RETURN v_set;
END
$_pgq_cron_set$;

COMMENT ON FUNCTION _pgq_cron_set(text, text[], text, integer, integer, text[]) IS
    'Return the values that the items of one field of a cron expression stand for, as bits from lowest to highest. '
    'names are those of the values from lowest on. Raises 22023 for an item that is not valid.';
