-- The public call: check the arguments, and find the next time.

-- Only names of areas and places: PostgreSQL takes an abbreviation, such as CET, for an offset that never changes, and
-- most text with a digit in it for a zone of its own rules.
CREATE FUNCTION _pgq_check_timezone(timezone text) RETURNS void
    LANGUAGE plpgsql
    IMMUTABLE
    SET search_path FROM CURRENT
AS $_pgq_check_timezone$
BEGIN
    IF timezone COLLATE "C" ~ '^(UTC|Etc/[A-Za-z0-9+-]+|[A-Za-z_-]+(/[A-Za-z_-]+)+)$' THEN
        BEGIN
            PERFORM timestamp '2000-01-01' AT TIME ZONE timezone;
            RETURN;
        EXCEPTION WHEN invalid_parameter_value THEN
            NULL;
        END;
    END IF;
    RAISE EXCEPTION 'timezone "%" is unknown', left(timezone, 200)
        USING ERRCODE = 'invalid_parameter_value',
              HINT = 'Use UTC, or a name of area and place, such as Europe/Berlin; pg_timezone_names lists them.';
END
$_pgq_check_timezone$;

COMMENT ON FUNCTION _pgq_check_timezone(text) IS
    'Check the name of a time zone. Returns nothing. Raises 22023 for one that is unknown.';


-- IMMUTABLE, as PostgreSQL's own functions of time zones are: only another version of the time zone data changes what
-- it returns.
CREATE FUNCTION pgq_cron_next(cron text, after timestamptz, timezone text DEFAULT 'UTC') RETURNS timestamptz
    LANGUAGE plpgsql
    IMMUTABLE
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_cron_next$
DECLARE
    v_every text[];
    v_seconds bigint;
    v_after timestamp;
    v_cron _pgq_cron;
BEGIN
    IF cron IS NULL OR after IS NULL OR timezone IS NULL THEN
        RAISE EXCEPTION '% is null',
            CASE WHEN cron IS NULL THEN 'cron' WHEN after IS NULL THEN 'after' ELSE 'timezone' END
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Give an expression, such as "0 7 * * mon-fri", and a time; leave timezone out for UTC.';
    END IF;
    IF extract(year FROM after AT TIME ZONE 'UTC') NOT BETWEEN 1900 AND 9999 THEN
        RAISE EXCEPTION 'after % is out of range', after
            USING ERRCODE = 'datetime_field_overflow',
                  HINT = 'Give a time in the years 1900 to 9999.';
    END IF;
    IF timezone <> 'UTC' THEN
        PERFORM _pgq_check_timezone(timezone);
    END IF;

    v_every := regexp_match(
        upper(cron COLLATE "C"), '^EVERY ([0-9]{1,9}) (SECOND|MINUTE|HOUR|DAY|WEEK)S?$');
    IF v_every IS NOT NULL THEN
        v_seconds := v_every[1]::bigint * CASE v_every[2]
            WHEN 'SECOND' THEN 1 WHEN 'MINUTE' THEN 60 WHEN 'HOUR' THEN 3600 WHEN 'DAY' THEN 86400 ELSE 604800
        END;
        IF v_seconds NOT BETWEEN 1 AND 3155760000 THEN
            RAISE EXCEPTION 'cron "%" is out of range', left(cron, 200)
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'Give an interval from 1 second to 100 years.';
        END IF;
        RETURN to_timestamp(((floor(extract(epoch FROM after) / v_seconds) + 1) * v_seconds)::double precision);
    END IF;

    v_cron := _pgq_parse_cron(cron);
    v_after := date_trunc('second', after AT TIME ZONE 'UTC');
    RETURN CASE
        WHEN timezone = 'UTC' THEN _pgq_cron_next_wall(v_cron, v_after)
        WHEN v_cron.wall_time THEN _pgq_cron_next_fixed(v_cron, v_after, timezone)
        ELSE _pgq_cron_next_passing(v_cron, v_after, timezone)
    END AT TIME ZONE 'UTC';
END
$pgq_cron_next$;

COMMENT ON FUNCTION pgq_cron_next(text, timestamptz, text) IS
    'Return the first time after another at which a cron expression fires, on the clocks of a time zone; NULL if it '
    'never fires, such as on 30 February. cron has five fields: minute, hour, day of the month, month, day of the '
    'week. Each is *, or a list of numbers, names (jan, mon) and ranges, with steps, such as "*/15 8-18 * * mon-fri". '
    'L is the last day of the month, LW its last weekday, fri#2 the second Friday, and 5L the last. If neither of the '
    'two fields of days begins with *, a day in one of them is enough. @hourly, @daily, @weekly, @monthly and @yearly '
    'stand for the usual expressions; "every 90 seconds" (or minutes, hours, days of 24 hours, weeks) for the '
    'multiples of that since 1970 in UTC. Where the clocks change, an expression whose minute or hour begins with * '
    'fires whenever the clocks show a time that it names. Any other fires once for a time that is skipped, when the '
    'skip ends, and once, the first time, for one that is repeated. timezone is UTC or a name such as Europe/Berlin. '
    'NULL for an argument raises 22004. Raises 22023 for a bad expression or an unknown time zone, 22008 for a time '
    'before 1900 or after 9999.';
