-- Send a signal to a job.

CREATE FUNCTION _pgq_check_signal(name text) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_check_signal$
BEGIN
    IF name IS NULL THEN
        RAISE EXCEPTION 'name is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Name the signal, such as approved.';
    END IF;
    IF NOT _pgq_is_name(name) THEN
        RAISE EXCEPTION 'signal "%" is not a name', left(name, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use 1 to 200 bytes without the character U+001F.';
    END IF;
END
$_pgq_check_signal$;

COMMENT ON FUNCTION _pgq_check_signal(text) IS
    'Check the name of a signal. Returns nothing. Raises 22004 for NULL, 22023 for what is not a name.';


CREATE FUNCTION pgq_signal(id bigint, name text, payload jsonb DEFAULT NULL) RETURNS boolean
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_signal$
#variable_conflict use_column
DECLARE
    v_now timestamptz := pgq_now();
    v_allowed text[] := _pgq_named_queues();
    v_id bigint := _pgq_survivor(id);
    v_state text;
BEGIN
    PERFORM _pgq_check_signal(name);
    IF octet_length(payload::text) > 1048576 THEN
        RAISE EXCEPTION 'payload takes % bytes as text, more than 1048576', octet_length(payload::text)
            USING ERRCODE = 'program_limit_exceeded',
                  HINT = 'Store large data in a table of your own and send a reference to it.';
    END IF;
    -- One statement, so that a job that moves meanwhile is seen on one side or the other.
    SELECT j.state INTO v_state
    FROM (
        SELECT 'waiting' AS state, w.queue FROM pgq_waiting AS w WHERE w.id = v_id
        UNION ALL
        SELECT 'blocked', b.queue FROM pgq_blocked AS b WHERE b.id = v_id
        UNION ALL
        SELECT e.outcome, e.queue FROM pgq_ended AS e WHERE e.id = v_id
        UNION ALL
        SELECT 'running', r.queue FROM _pgq_running AS r WHERE r.id = v_id
        LIMIT 1
    ) AS j
    WHERE v_allowed IS NULL OR j.queue = ANY (v_allowed);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no job %', coalesce(id::text, 'null')
            USING ERRCODE = 'PGQ01',
                  HINT = 'Pass the id that an enqueue has returned; a job that was completed without a result is gone.';
    END IF;
    IF v_state NOT IN ('waiting', 'blocked', 'running') THEN
        RAISE EXCEPTION 'job % is % and gets no signal', v_id, v_state
            USING ERRCODE = 'PGQ03',
                  HINT = 'Send a signal only to a job that waits, is blocked or runs.';
    END IF;

    INSERT INTO pgq_job_signal (id, name, payload, sent_at, unseen)
    VALUES (v_id, pgq_signal.name, pgq_signal.payload, v_now, true)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF _pgq_wake_waiting(v_id, name) THEN
        UPDATE pgq_job_signal AS s SET unseen = false WHERE s.id = v_id AND s.name = pgq_signal.name;
    END IF;
    RETURN true;
END
$pgq_signal$;

COMMENT ON FUNCTION pgq_signal(bigint, text, jsonb) IS
    'Send a signal to a waiting, blocked or running job, in the transaction of the caller, before or after the job '
    'waits for it (see pgq_wait_signal). Returns true, or false if the job has got a signal with this name already: '
    'the first one is kept. A job that waits for it is ripe when the transaction commits; one that just begins to '
    'wait, within two seconds. The signal is kept with the job until the job is deleted. If the job has merged with a '
    'twin, the twin gets it. NULL for payload means none. Waits for no transaction of a worker; for another one that '
    'sends the job a signal with the same name, until that ends. Raises PGQ01 if there is no such job, if it is in a '
    'queue that the calling role may use neither as producer nor as admin, or for a NULL id; PGQ03 for a job that has '
    'ended; 22004 for a NULL name, 22023 for a bad one, 54000 for a payload of more than 1 MiB as text.';


CREATE FUNCTION pgq_signal_key(queue text, kind text, dedup_key text, name text, payload jsonb DEFAULT NULL)
    RETURNS bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_signal_key$
DECLARE
    v_allowed text[] := _pgq_named_queues();
    v_id bigint;
BEGIN
    IF num_nulls(queue, kind, dedup_key) > 0 THEN
        RAISE EXCEPTION 'queue, kind or dedup_key is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Pass what the job was enqueued with, or call pgq_signal with its id.';
    END IF;
    IF queue <> ALL (v_allowed) THEN
        PERFORM _pgq_raise_denied(queue, 'producer');
    END IF;
    v_id := (
        SELECT w.id
        FROM pgq_waiting AS w
        WHERE w.signature = _pgq_signature(
            pgq_signal_key.queue, pgq_signal_key.kind, '{}', pgq_signal_key.dedup_key)
    );
    v_id := coalesce(v_id, (
        SELECT min(r.id)
        FROM _pgq_running AS r
        WHERE r.queue = pgq_signal_key.queue
          AND r.kind = pgq_signal_key.kind
          AND r.dedup_key = pgq_signal_key.dedup_key
    ));
    IF v_id IS NULL THEN
        RAISE EXCEPTION 'there is no job of kind "%" with this dedup_key in queue "%"',
              left(kind, 200), left(queue, 200)
            USING ERRCODE = 'PGQ01',
                  HINT = 'Enqueue the job first; one that has ended gets no signal.';
    END IF;
    PERFORM pgq_signal(v_id, name, payload);
    RETURN v_id;
END
$pgq_signal_key$;

COMMENT ON FUNCTION pgq_signal_key(text, text, text, text, jsonb) IS
    'Send a signal, as pgq_signal does, to the job of this queue and kind that was enqueued with this dedup_key. '
    'Returns its id. If one waits and others run, it is the one that waits: another one that needs the signal merges '
    'with it. Of several that run, it is the one with the smallest id. To find a running one, all running jobs are '
    'read. Raises PGQ01 if none waits or runs, 42501 for a queue that the calling role may use neither as producer nor '
    'as admin, 22004 for NULL, and what pgq_signal raises.';
