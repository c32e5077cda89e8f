-- The ways out of pgq_running, which completing, failing, cancelling, releasing and rescuing share.
--
-- _pgq_take removes a job for the worker that holds it. _pgq_end then puts it into pgq_ended, or _pgq_requeue back into
-- pgq_waiting; after a failure, _pgq_record_failure decides which.

CREATE FUNCTION _pgq_raise_lease_lost(id bigint, token bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_raise_lease_lost$
BEGIN
    RAISE EXCEPTION 'job % is not held under token %', coalesce(id::text, 'null'), coalesce(token::text, 'null')
        USING ERRCODE = 'PGQ02',
              HINT = 'Stop working on the job and roll back what was done for it: the job or its lease has ended.';
END
$_pgq_raise_lease_lost$;

COMMENT ON FUNCTION _pgq_raise_lease_lost(bigint, bigint) IS
    'Raise PGQ02: the job is not held under this token.';


CREATE FUNCTION _pgq_check_pairs(ids bigint[], tokens bigint[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_check_pairs$
BEGIN
    IF ids IS NULL OR tokens IS NULL THEN
        RAISE EXCEPTION 'ids or tokens is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Pass two arrays of the same length, empty if there are no jobs.';
    END IF;
    IF cardinality(ids) <> cardinality(tokens) THEN
        RAISE EXCEPTION 'there are % ids but % tokens', cardinality(ids), cardinality(tokens)
            USING ERRCODE = 'array_subscript_error',
                  HINT = 'Pass the token of each job at the same place as its id.';
    END IF;
END
$_pgq_check_pairs$;

COMMENT ON FUNCTION _pgq_check_pairs(bigint[], bigint[]) IS
    'Check arrays of ids and tokens. Returns nothing. Raises 22004 for NULL, 2202E for different lengths.';


-- The only way out of pgq_running for the worker that holds the job.
CREATE FUNCTION _pgq_take(id bigint, token bigint) RETURNS pgq_running
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_take$
DECLARE
    v_allowed text[];
    v_job pgq_running;
BEGIN
    UNLISTEN pgq_nothing;  -- what _pgq_refuse_in_maintenance does, without the cost of a call
    IF NOT _pgq_acts_as_owner() THEN
        v_allowed := _pgq_allowed_queues('worker');
    END IF;
    FOR v_try IN 1..2 LOOP
        DELETE FROM pgq_running AS r
        WHERE r.id = _pgq_take.id
          AND r.token = _pgq_take.token
          AND (v_allowed IS NULL OR r.queue = ANY (v_allowed))
        RETURNING r.* INTO v_job;
        IF FOUND THEN
            RETURN v_job;
        END IF;
        IF v_try = 1 THEN
            PERFORM _pgq_unpack_jobs(ARRAY[id], ARRAY[token], v_allowed);
        END IF;
    END LOOP;
    PERFORM _pgq_raise_lease_lost(id, token);
END
$_pgq_take$;

COMMENT ON FUNCTION _pgq_take(bigint, bigint) IS
    'Remove a running job from pgq_running. Returns its row. Raises PGQ02 if the job is not held under this token, or '
    'is in a queue that the calling role may not use.';


CREATE FUNCTION _pgq_end(job pgq_running, outcome text, at timestamptz, result jsonb) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_end$
BEGIN
    INSERT INTO pgq_ended (
        id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
        enqueued_at, context, outcome, result, worker, ended_at, losses, newest_error, group_key, group_id, claimed_at
    )
    VALUES (
        job.id, job.queue, job.kind, job.args, job.priority, job.ripe_at, job.attempt, job.max_retries, job.backoff,
        job.backoff_cap, job.dedup, job.dedup_key, job.enqueued_at, job.context, outcome, result, job.worker, at,
        abs(job.losses), nullif(job.newest_error, 0), job.group_key, _pgq_group_id(job.group_key), job.claimed_at
    );
    IF outcome <> 'done' THEN
        INSERT INTO pgq_count (queue, kind, event, jobs)
        VALUES (job.queue, job.kind, CASE outcome WHEN 'cancelled' THEN 'stopped' ELSE outcome END, 1);
    ELSIF _pgq_is_timed(job.token) THEN
        INSERT INTO pgq_count (queue, kind, event, jobs, ran)
        VALUES (job.queue, job.kind, 'timed', 64, (at - job.claimed_at) * 64);
    END IF;
    PERFORM _pgq_tell_end(job.id, CASE outcome WHEN 'done' THEN outcome ELSE 'failed' END);
    IF job.group_id IS NOT NULL THEN
        PERFORM _pgq_wake_next(job.queue, ARRAY[job.group_id]);
    END IF;
END
$_pgq_end$;

COMMENT ON FUNCTION _pgq_end(pgq_running, text, timestamptz, jsonb) IS
    'Put a job that was just removed from pgq_running into pgq_ended, unblock or cancel those that wait for it, and '
    'wake a worker if its place lets another job start. Returns nothing.';
