-- Complete a job.

-- Only for jobs with newest_error, because a look at the settings would cost all others. The time is that of the end.
CREATE FUNCTION _pgq_keep_done(jobs pgq_running[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_keep_done$
DECLARE
    v_now timestamptz := pgq_now();
    v_deleted bigint[];
BEGIN
    INSERT INTO pgq_count (queue, kind, event, jobs, ran)
    SELECT j.queue, j.kind, 'timed', count(*) * 64, sum(v_now - j.claimed_at) * 64
    FROM unnest(jobs) AS j
    WHERE _pgq_is_timed(j.token)
    GROUP BY j.queue, j.kind;
    WITH kept AS (
        INSERT INTO pgq_ended (
            id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
            enqueued_at, context, outcome, worker, ended_at, losses, newest_error, group_key, group_id, claimed_at
        )
        SELECT j.id, j.queue, j.kind, j.args, j.priority, j.ripe_at, j.attempt, j.max_retries, j.backoff,
               j.backoff_cap, j.dedup, j.dedup_key, j.enqueued_at, j.context, 'done', j.worker, v_now, abs(j.losses),
               nullif(j.newest_error, 0), j.group_key, _pgq_group_id(j.group_key), j.claimed_at
        FROM unnest(jobs) AS j
        JOIN pgq_queue_setting AS s ON s.queue = j.queue COLLATE "C"
        WHERE s.keep_done IS NOT NULL
        RETURNING id
    )
    SELECT array_agg(j.id) INTO v_deleted
    FROM unnest(jobs) AS j
    WHERE j.newest_error <> 0
      AND j.id NOT IN (SELECT k.id FROM kept AS k);
    IF v_deleted IS NOT NULL THEN
        PERFORM _pgq_delete_beside(v_deleted);
    END IF;
END
$_pgq_keep_done$;

COMMENT ON FUNCTION _pgq_keep_done(pgq_running[]) IS
    'Put jobs that are done without a result, and were just removed from pgq_running, into pgq_ended if their queues '
    'keep all that is done, and delete what stands beside the others; count the times that are counted. Returns '
    'nothing.';


CREATE FUNCTION pgq_complete(
    id bigint,
    token bigint,
    result jsonb DEFAULT NULL,
    note text DEFAULT NULL,
    transaction text DEFAULT NULL
) RETURNS void
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_complete$
DECLARE
    v_allowed text[];
    v_job pgq_running;
    v_now timestamptz;
BEGIN
    -- The usual case needs one look-up, and nothing of the row: to take it as a whole costs as much again. Conditions
    -- stand together, because each IF costs more than what it tests.
    IF result IS NULL AND note IS NULL AND (transaction = pg_current_xact_id()::text) IS NOT FALSE THEN
        UNLISTEN pgq_nothing;  -- what _pgq_refuse_in_maintenance does, without the cost of a call
        IF NOT _pgq_acts_as_owner() THEN
            v_allowed := _pgq_allowed_queues('worker');
        END IF;
        DELETE FROM pgq_running AS r
        WHERE r.id = pgq_complete.id
          AND r.token = pgq_complete.token
          AND r.newest_error IS NULL
          AND r.group_id IS NULL
          AND (v_allowed IS NULL OR r.queue = ANY (v_allowed));
        IF FOUND AND NOT _pgq_is_awaited() THEN
            RETURN;
        ELSIF FOUND THEN
            PERFORM _pgq_tell_end(id, 'done');
            RETURN;
        END IF;
    END IF;
    IF transaction <> pg_current_xact_id()::text THEN
        RAISE EXCEPTION 'transaction % has ended', transaction
            USING ERRCODE = 'invalid_transaction_state',
                  HINT = 'Do not end the transaction that holds the job before it completes the job.';
    END IF;
    IF octet_length(result::text) > 1048576 THEN
        RAISE EXCEPTION 'result takes % bytes as text, more than 1048576', octet_length(result::text)
            USING ERRCODE = 'program_limit_exceeded',
                  HINT = 'Store large data in a table of your own and return a reference to it.';
    END IF;

    v_job := _pgq_take(id, token);
    IF result IS NOT NULL OR note IS NOT NULL THEN
        v_now := pgq_now();
        IF note IS NOT NULL THEN
            v_job.newest_error := _pgq_add_error(v_job, v_now, note);
        END IF;
        PERFORM _pgq_end(v_job, 'done', v_now, result);
        RETURN;
    END IF;
    PERFORM _pgq_tell_end(id, 'done');
    IF v_job.newest_error IS NOT NULL THEN
        PERFORM _pgq_keep_done(ARRAY[v_job]);
    END IF;
    IF v_job.group_id IS NOT NULL THEN
        PERFORM _pgq_wake_next(v_job.queue, ARRAY[v_job.group_id]);
    END IF;
END
$pgq_complete$;

COMMENT ON FUNCTION pgq_complete(bigint, bigint, jsonb, text, text) IS
    'End a running job that is done. Returns nothing. Without a result and a note the job is deleted, unless its queue '
    'has keep_done among its settings (see pgq_configure); with either it is kept in pgq_ended as done. Call it in the '
    'transaction that writes the effects of the job, and they happen exactly once: if the lease is lost, it raises '
    'PGQ02 and the writes roll back. NULL for result means none; the JSON null is a result. The note is kept as the '
    'newest of the errors, cut to 4000 characters, for what went wrong although the work is done, such as a result '
    'that cannot be stored. With the id of a transaction, as text from pg_current_xact_id, the job ends in that '
    'transaction only: after a COMMIT or ROLLBACK that has come in between, the call raises 25000. Raises PGQ02 if the '
    'job is not held under this token, or for a NULL id or token; 54000 for a result of more than 1 MiB as text.';
