-- How a cron expression is read.

CREATE FUNCTION _pgq_parse_cron(cron text) RETURNS _pgq_cron
    LANGUAGE plpgsql
    IMMUTABLE
    SET search_path FROM CURRENT
AS $_pgq_parse_cron$
DECLARE
    c_nicknames CONSTANT jsonb := '{
        "@HOURLY": "0 * * * *", "@DAILY": "0 0 * * *", "@MIDNIGHT": "0 0 * * *", "@WEEKLY": "0 0 * * 0",
        "@MONTHLY": "0 0 1 * *", "@YEARLY": "0 0 1 1 *", "@ANNUALLY": "0 0 1 1 *"
    }';
    c_days CONSTANT text[] := '{SUN,MON,TUE,WED,THU,FRI,SAT}';
    v_text text := upper(cron COLLATE "C");
    v_field text[];
    v_items text[];
    v_item text;
    v_part text[];
    v_plain text[] := '{}';
    v_weekday integer;
    v_cron _pgq_cron;
BEGIN
    v_field := regexp_split_to_array(
        btrim(coalesce(c_nicknames ->> v_text, v_text), E' \t\r\n'), '[ \t\r\n]+' COLLATE "C");
    IF cardinality(v_field) <> 5 OR octet_length(cron) > 1000 THEN
        RAISE EXCEPTION 'cron "%" is not an expression of five fields', left(cron, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give minute, hour, day of the month, month and day of the week, such as "0 7 * * mon-fri"; '
                         'or @hourly, @daily, @weekly, @monthly, @yearly; or an interval such as "every 90 seconds".';
    END IF;
    v_cron.minutes := _pgq_cron_set(cron, string_to_array(v_field[1], ','), 'minute', 0, 59);
    v_cron.hours := _pgq_cron_set(cron, string_to_array(v_field[2], ','), 'hour', 0, 23);
    v_cron.months := _pgq_cron_set(
        cron, string_to_array(v_field[4], ','), 'month', 1, 12, '{JAN,FEB,MAR,APR,MAY,JUN,JUL,AUG,SEP,OCT,NOV,DEC}');

    v_items := string_to_array(v_field[3], ',');
    v_cron.last_day := 'L' = ANY (v_items);
    v_cron.last_workday := 'LW' = ANY (v_items);
    v_cron.days := _pgq_cron_set(
        cron, array_remove(array_remove(v_items, 'L'), 'LW'), 'day of the month', 1, 31);

    v_cron.nth_weekdays := repeat('0', 35)::varbit;
    v_cron.last_weekdays := repeat('0', 7)::varbit;
    FOREACH v_item IN ARRAY string_to_array(v_field[5], ',') LOOP
        v_part := regexp_match(v_item COLLATE "C", '^(?:([0-7])L|([0-7]|[A-Z]{3})#([1-5]))$');
        v_weekday := CASE
            WHEN coalesce(v_part[1], v_part[2]) ~ '^[0-7]' THEN coalesce(v_part[1], v_part[2])::integer
            ELSE array_position(c_days, v_part[2]) - 1
        END;
        IF v_weekday IS NULL THEN
            v_plain := v_plain || v_item;
        ELSIF v_part[1] IS NOT NULL THEN
            v_cron.last_weekdays := set_bit(v_cron.last_weekdays, v_weekday % 7, 1);
        ELSE
            v_cron.nth_weekdays := set_bit(v_cron.nth_weekdays, v_weekday % 7 * 5 + v_part[3]::integer - 1, 1);
        END IF;
    END LOOP;
    v_cron.weekdays := _pgq_cron_set(cron, v_plain, 'day of the week', 0, 7, c_days);
    v_cron.weekdays := substring(
        v_cron.weekdays | (substring(v_cron.weekdays FROM 8) || repeat('0', 7)::varbit) FOR 7);

    v_cron.both_days := v_field[3] LIKE '*%' OR v_field[5] LIKE '*%';
    v_cron.wall_time := NOT (v_field[1] LIKE '*%' OR v_field[2] LIKE '*%');
    RETURN v_cron;
END
$_pgq_parse_cron$;

COMMENT ON FUNCTION _pgq_parse_cron(text) IS
    'Return what a cron expression says. Raises 22023 for one that is not valid.';
