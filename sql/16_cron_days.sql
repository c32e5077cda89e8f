-- The next time that a cron expression names, on clocks that never change.
--
-- It is found field by field: the month, the day in it, the hour and the minute, by the next bit of each set. No step
-- is a minute or a day, so the distance costs little.

CREATE FUNCTION _pgq_cron_days(cron _pgq_cron, month date) RETURNS varbit
    LANGUAGE plpgsql
    IMMUTABLE
    SET search_path FROM CURRENT
AS $_pgq_cron_days$
DECLARE
    c_none CONSTANT varbit := repeat('0', 31)::varbit;
    -- The first, 8th, 15th, 22nd and 29th day.
    c_weekly CONSTANT varbit := B'1000000100000010000001000000100';
    v_length integer := extract(day FROM month + interval '1 month' - interval '1 day');
    v_first integer := extract(dow FROM month);
    v_last integer := (v_first + v_length - 1) % 7;
    v_days varbit := cron.days;
    v_weekdays varbit := c_none;
    v_offset integer;
BEGIN
    IF cron.last_day THEN
        v_days := set_bit(v_days, v_length - 1, 1);
    END IF;
    IF cron.last_workday THEN
        v_days := set_bit(v_days, v_length - 1 - CASE v_last WHEN 0 THEN 2 WHEN 6 THEN 1 ELSE 0 END, 1);
    END IF;
    IF cron.weekdays = B'1111111' THEN
        v_weekdays := ~ c_none;
    ELSE
        FOR v_weekday IN 0..6 LOOP
            v_offset := (v_weekday - v_first + 7) % 7;
            IF get_bit(cron.weekdays, v_weekday) = 1 THEN
                v_weekdays := v_weekdays | (c_weekly >> v_offset);
            END IF;
            FOR v_nth IN 0..4 LOOP
                IF get_bit(cron.nth_weekdays, v_weekday * 5 + v_nth) = 1 AND v_offset + v_nth * 7 < v_length THEN
                    v_weekdays := set_bit(v_weekdays, v_offset + v_nth * 7, 1);
                END IF;
            END LOOP;
            IF get_bit(cron.last_weekdays, v_weekday) = 1 THEN
                v_weekdays := set_bit(v_weekdays, v_length - 1 - (v_last - v_weekday + 7) % 7, 1);
            END IF;
        END LOOP;
    END IF;
    RETURN substring(CASE WHEN cron.both_days THEN v_days & v_weekdays ELSE v_days | v_weekdays END FOR v_length);
END
$_pgq_cron_days$;

COMMENT ON FUNCTION _pgq_cron_days(_pgq_cron, date) IS
    'Return the days of a month, given by its first day, on which a cron expression fires: a bit for each day.';


-- Dates repeat their weekdays after 28 years, or after 40 where a year such as 2100 is no leap year.
CREATE FUNCTION _pgq_cron_next_wall(cron _pgq_cron, after timestamp) RETURNS timestamp
    LANGUAGE plpgsql
    IMMUTABLE
    SET search_path FROM CURRENT
AS $_pgq_cron_next_wall$
DECLARE
    v_month date := date_trunc('month', after);
    v_day integer := extract(day FROM after);
    v_hour integer := extract(hour FROM after);
    -- From here on: the first minute of the day, or of the hour, that is still to come.
    v_minute integer := extract(minute FROM after) + 1;
    v_days varbit;
    v_found integer;
    v_next_hour integer;
BEGIN
    FOR v_n IN 0..600 LOOP
        v_days := B'';
        IF get_bit(cron.months, extract(month FROM v_month)::integer - 1) = 1 THEN
            v_days := _pgq_cron_days(cron, v_month);
        END IF;
        LOOP
            v_found := position(B'1' IN substring(v_days FROM v_day));
            EXIT WHEN v_found = 0;
            IF v_found > 1 THEN
                v_day := v_day + v_found - 1;
                v_hour := 0;
                v_minute := 0;
            END IF;
            IF get_bit(cron.hours, v_hour) = 1 THEN
                v_found := position(B'1' IN substring(cron.minutes FROM v_minute + 1));
                IF v_found > 0 THEN
                    RETURN v_month + make_interval(
                        days => v_day - 1, hours => v_hour, mins => v_minute + v_found - 1);
                END IF;
            END IF;
            v_next_hour := position(B'1' IN substring(cron.hours FROM v_hour + 2));
            IF v_next_hour > 0 THEN
                RETURN v_month + make_interval(
                    days => v_day - 1, hours => v_hour + v_next_hour, mins => position(B'1' IN cron.minutes) - 1);
            END IF;
            v_day := v_day + 1;
            v_hour := 0;
            v_minute := 0;
        END LOOP;
        v_month := v_month + interval '1 month';
        v_day := 1;
        v_hour := 0;
        v_minute := 0;
    END LOOP;
    RETURN NULL;
END
$_pgq_cron_next_wall$;

COMMENT ON FUNCTION _pgq_cron_next_wall(_pgq_cron, timestamp) IS
    'Return the first time after another that a cron expression names, on clocks that never change; NULL if there is '
    'none in 50 years, and so none at all.';
