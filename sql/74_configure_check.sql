-- What is wrong with the settings of a queue, and with its name.

-- With all settings taken together.
CREATE FUNCTION _pgq_check_setting(setting pgq_queue_setting) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_check_setting$
DECLARE
    v_name text;
    v_value text;
BEGIN
    FOR v_name, v_value IN
        SELECT v.name, v.value
        FROM (VALUES ('max_running', setting.max_running), ('max_per_group', setting.max_per_group),
                     ('rate', setting.rate), ('burst', setting.burst), ('rate_per_group', setting.rate_per_group))
             AS v (name, value)
        WHERE v.value < 1
    LOOP
        RAISE EXCEPTION '% % is out of range', v_name, v_value
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give a number from 1 to 2147483647, or null for no limit; pgq_pause stops a queue.';
    END LOOP;
    IF setting.max_retries < 0 THEN
        RAISE EXCEPTION 'max_retries % is out of range', setting.max_retries
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give a number from 0, for a single attempt, to 2147483647.';
    END IF;
    FOR v_name, v_value IN
        SELECT v.name, v.value
        FROM (VALUES ('backoff', setting.backoff, interval '0', interval '100 years'),
                     ('backoff_cap', setting.backoff_cap, '0', '100 years'),
                     ('keep_done', setting.keep_done, '0', '100 years'),
                     ('keep_dead', setting.keep_dead, '0', '100 years'),
                     ('keep_cancelled', setting.keep_cancelled, '0', '100 years'),
                     ('lease', setting.lease, '1 microsecond', '1 year'),
                     ('per', setting.per, '1 millisecond', '1 year')) AS v (name, value, shortest, longest)
        WHERE NOT (v.value BETWEEN v.shortest AND v.longest AND _pgq_is_in_range(v.value, pgq_now(), v.longest))
    LOOP
        RAISE EXCEPTION '% % is out of range', v_name, v_value
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give an interval: for lease of more than 0 and at most 1 year, for per from 1 millisecond to '
                         '1 year, for all others from 0 to 100 years.';
    END LOOP;
    IF setting.on_dead NOT IN ('continue', 'stop') THEN
        RAISE EXCEPTION 'on_dead "%" is unknown', left(setting.on_dead, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use continue or stop.';
    END IF;
    IF setting.on_dead IS NOT NULL AND setting.ordered IS NOT TRUE THEN
        RAISE EXCEPTION 'on_dead is set, but the queue is not ordered'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Set ordered to true, too, or reset on_dead with null.';
    END IF;
    IF setting.ordered AND setting.max_per_group > 1 THEN
        RAISE EXCEPTION 'max_per_group is %, but the queue is ordered', setting.max_per_group
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Reset max_per_group with null: of an ordered queue one job of each group runs at a time.';
    END IF;
    IF setting.per IS NULL AND (setting.rate IS NOT NULL OR setting.rate_per_group IS NOT NULL) THEN
        RAISE EXCEPTION 'rate or rate_per_group is set without per'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Set the interval per, too, such as "1 minute".';
    END IF;
    SELECT e.key INTO v_name
    FROM jsonb_each(jsonb_strip_nulls(to_jsonb(setting))) AS e
    WHERE setting.queue = ''
      AND e.key NOT IN ('queue', 'keep_done', 'keep_dead', 'keep_cancelled')
    ORDER BY e.key COLLATE "C"
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '% is set for all queues', v_name
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Name a queue. For all queues only keep_done, keep_dead and keep_cancelled can be set.';
    END IF;
END
$_pgq_check_setting$;

COMMENT ON FUNCTION _pgq_check_setting(pgq_queue_setting) IS
    'Check the settings of a queue. Returns nothing. Raises 22023 for a value out of range, and for values that do not '
    'belong together.';


CREATE FUNCTION _pgq_check_settings(settings jsonb) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_check_settings$
DECLARE
    c_types CONSTANT jsonb := '{
        "max_running": "number", "max_per_group": "number", "ordered": "boolean", "on_dead": "string",
        "rate": "number", "per": "string", "burst": "number", "rate_per_group": "number",
        "max_retries": "number", "backoff": "string", "backoff_cap": "string", "lease": "string",
        "keep_done": "string", "keep_dead": "string", "keep_cancelled": "string", "sensitive": "boolean"
    }';
    v_key text;
    v_type text;
BEGIN
    IF settings IS NULL THEN
        RAISE EXCEPTION 'settings is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Pass a JSON object, such as {"max_running": 10}, or {} to change nothing.';
    END IF;
    IF jsonb_typeof(settings) <> 'object' THEN
        RAISE EXCEPTION 'settings is not an object but of JSON type %', jsonb_typeof(settings)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Pass a JSON object, such as {"max_running": 10}, or {} to change nothing.';
    END IF;
    SELECT e.key, c_types ->> e.key INTO v_key, v_type
    FROM jsonb_each(settings) AS e
    WHERE (jsonb_typeof(e.value) IN (c_types ->> e.key, 'null') AND c_types ? e.key) IS NOT TRUE
    ORDER BY e.key COLLATE "C"
    LIMIT 1;
    IF FOUND AND v_type IS NULL THEN
        RAISE EXCEPTION 'setting "%" is unknown', left(v_key, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format(
                      'Use only the keys %s.', (SELECT string_agg(k, ', ') FROM jsonb_object_keys(c_types) AS k));
    ELSIF FOUND THEN
        RAISE EXCEPTION 'setting % is not of JSON type %', v_key, v_type
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give limits, rates and max_retries as numbers, ordered and sensitive as booleans, and '
                         'intervals as strings.';
    END IF;
END
$_pgq_check_settings$;

COMMENT ON FUNCTION _pgq_check_settings(jsonb) IS
    'Check that an object for pgq_configure has known keys, each of the right JSON type or null. Returns nothing. '
    'Raises 22004 for NULL, 22023 otherwise.';


CREATE FUNCTION _pgq_check_queue(queue text, may_be_all boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_check_queue$
DECLARE
    v_allowed text[] := _pgq_allowed_queues('admin');
BEGIN
    IF queue IS NULL THEN
        RAISE EXCEPTION 'queue is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Name a queue.';
    END IF;
    IF NOT _pgq_is_name(queue) AND NOT (queue = '' AND may_be_all) THEN
        RAISE EXCEPTION 'queue "%" is not a name', left(queue, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use 1 to 200 bytes without the character U+001F.';
    END IF;
    IF queue <> ALL (v_allowed) THEN
        PERFORM _pgq_raise_denied(queue, 'admin');
    END IF;
END
$_pgq_check_queue$;

COMMENT ON FUNCTION _pgq_check_queue(text, boolean) IS
    'Check the queue that an operator has named; an empty name may stand for all. Returns nothing. Raises 22004 for '
    'NULL, 22023 for a bad name, 42501 for a queue that the calling role may not use as admin.';
