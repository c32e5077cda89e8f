-- Check the array that pgq_enqueue_many takes: the keys of its jobs and their JSON types.

CREATE FUNCTION _pgq_check_jobs(jobs jsonb) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_check_jobs$
DECLARE
    c_types CONSTANT jsonb := '{
        "kind": "string", "args": "any", "queue": "string", "ripe_at": "string", "delay": "string",
        "priority": "number", "max_retries": "number", "backoff": "string", "backoff_cap": "string",
        "dedup": "boolean", "dedup_key": "string", "on_duplicate": "string", "context": "object",
        "group_key": "string", "dedup_for": "string", "after": "array", "after_failed": "string"
    }';
    v_plain boolean := CASE WHEN jsonb_typeof(jobs) = 'array' THEN (
        SELECT bool_and(
            CASE WHEN jsonb_typeof(j.item) = 'object' THEN
                j.item - '{kind,args,queue,dedup,dedup_key}'::text[] = '{}'
                AND coalesce(jsonb_typeof(j.item -> 'kind'), 'string') = 'string'
                AND coalesce(jsonb_typeof(j.item -> 'queue'), 'string') = 'string'
                AND coalesce(jsonb_typeof(j.item -> 'dedup'), 'boolean') = 'boolean'
                AND coalesce(jsonb_typeof(j.item -> 'dedup_key'), 'string') = 'string'
            ELSE
                false
            END)
        FROM jsonb_array_elements(jobs) AS j (item)
    ) END;
    v_n bigint;
    v_key text;
    v_type text;
BEGIN
    -- Most arrays have no other keys. What follows takes four times as long.
    IF v_plain THEN
        RETURN true;
    END IF;

    IF jobs IS NULL THEN
        RAISE EXCEPTION 'jobs is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Pass a JSON array of objects, empty if there is nothing to enqueue.';
    END IF;
    IF jsonb_typeof(jobs) <> 'array' THEN
        RAISE EXCEPTION 'jobs is not an array but of JSON type %', jsonb_typeof(jobs)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Pass a JSON array of objects, each with the arguments of pgq_enqueue as its keys.';
    END IF;

    SELECT j.n INTO v_n
    FROM jsonb_array_elements(jobs) WITH ORDINALITY AS j (item, n)
    WHERE jsonb_typeof(j.item) <> 'object'
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'job % of the array is not an object', v_n
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Make each element an object such as {"kind": "mail", "args": {"to": "ann"}}.';
    END IF;

    SELECT j.n, e.key, c_types ->> e.key INTO v_n, v_key, v_type
    FROM jsonb_array_elements(jobs) WITH ORDINALITY AS j (item, n)
    CROSS JOIN LATERAL jsonb_each(j.item) AS e
    WHERE (c_types ->> e.key IN (jsonb_typeof(e.value), 'any') OR jsonb_typeof(e.value) = 'null' AND c_types ? e.key)
          IS NOT TRUE
    LIMIT 1;
    IF FOUND AND v_type IS NULL THEN
        RAISE EXCEPTION 'job % of the array has an unknown key "%"', v_n, left(v_key, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format(
                      'Use only the keys %s.', (SELECT string_agg(k, ', ') FROM jsonb_object_keys(c_types) AS k));
    ELSIF FOUND THEN
        RAISE EXCEPTION 'job % of the array: % is not of JSON type %', v_n, v_key, v_type
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give times and intervals as strings, priority and max_retries as numbers, dedup as boolean, '
                         'after as an array.';
    END IF;
    RETURN false;
END
$_pgq_check_jobs$;

COMMENT ON FUNCTION _pgq_check_jobs(jsonb) IS
    'Check that an array for pgq_enqueue_many holds objects with known keys, each of the right JSON type. Returns '
    'true if none has other keys than kind, args, queue, dedup and dedup_key, false if some may. Raises 22004 for '
    'NULL, 22023 otherwise.';
