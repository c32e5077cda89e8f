-- The ways of a job back into pgq_waiting, where it may merge into a twin, and what a failure leads to.

-- The twin is a later event, so its settings and its priority decide. What the other job has learned stays: without
-- its attempts, a job that fails each time while a twin is enqueued would never be dead.
--
-- A job that has nothing to tell leaves the twin unlocked. The update changes no key column, so it does not wait for
-- producers that have only locked the twin (FOR KEY SHARE), and their locks outlive it.
CREATE FUNCTION _pgq_merge(
    id bigint,
    signature uuid,
    ripe_at timestamptz,
    attempt integer,
    losses smallint,
    newest_error integer
) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_merge$
DECLARE
    v_delayed boolean := ripe_at > pgq_now();
    v_has_signals boolean := _pgq_note_merge(id, signature);
    v_twin record;
BEGIN
    IF attempt = 0 AND newest_error IS NULL AND losses IS NULL AND NOT v_delayed AND NOT v_has_signals
       AND NOT (_pgq_has_needs() AND _pgq_is_needed(id)) THEN
        RETURN _pgq_tell_end(id, NULL) IS NOT NULL;
    END IF;

    UPDATE pgq_waiting AS w
    SET attempt = greatest(w.attempt, _pgq_merge.attempt),
        newest_error = CASE
            WHEN _pgq_merge.newest_error > 0 THEN greatest(w.newest_error, _pgq_merge.newest_error) + 10
            WHEN w.newest_error > 0 THEN w.newest_error
            ELSE coalesce(_pgq_merge.newest_error, w.newest_error)
        END,
        ripe_at = CASE WHEN v_delayed THEN greatest(w.ripe_at, _pgq_merge.ripe_at) ELSE w.ripe_at END,
        losses = greatest(w.losses, _pgq_merge.losses)
    WHERE w.signature = _pgq_merge.signature
    RETURNING w.id, w.newest_error INTO v_twin;
    IF NOT FOUND THEN
        -- The job waits after all, and its signals are its own.
        DELETE FROM pgq_merged AS m WHERE m.id = _pgq_merge.id;
        RETURN false;
    END IF;
    IF newest_error > 0 THEN
        PERFORM _pgq_merge_errors(_pgq_merge.id, v_twin.id, v_twin.newest_error);
    END IF;
    IF newest_error IS NOT NULL OR v_has_signals THEN
        PERFORM _pgq_hand_over(_pgq_merge.id, v_twin.id);
        PERFORM _pgq_hand_over_signals(_pgq_merge.id, v_twin.id);
    END IF;
    IF _pgq_has_needs() THEN
        PERFORM _pgq_hand_over_needs(_pgq_merge.id, v_twin.id);
    END IF;
    RETURN _pgq_tell_end(id, NULL) IS NOT NULL;
END
$_pgq_merge$;

COMMENT ON FUNCTION _pgq_merge(bigint, uuid, timestamptz, integer, smallint, integer) IS
    'Merge a job into its waiting twin: the twin keeps the larger number of attempts and of losses, the newest ten '
    'errors of both, the later ripe_at, unless that of the job has passed, what the job has saved, unless it has saved '
    'something itself, and its signals. Blocked jobs that wait for the job then wait for the twin. Returns true, or '
    'false if no twin is waiting any more.';


-- Otherwise a merge would put the work of a job behind the jobs that were enqueued after it.
CREATE FUNCTION _pgq_keep_place(job pgq_running) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_keep_place$
DECLARE
    v_twin bigint;
BEGIN
    IF NOT _pgq_is_ordered(job.queue) THEN
        RETURN false;
    END IF;
    SELECT w.id INTO v_twin
    FROM pgq_waiting AS w
    WHERE w.signature = _pgq_signature(job.queue, job.kind, job.args, job.dedup_key)
      AND w.id > job.id
      AND w.group_id = _pgq_group_id(job.group_key)
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE pgq_waiting AS w SET id = job.id WHERE w.id = v_twin;
    UPDATE pgq_error AS e SET id = job.id WHERE e.id = v_twin;
    UPDATE pgq_saved AS s SET id = job.id WHERE s.id = v_twin;
    UPDATE pgq_job_signal AS s SET id = job.id WHERE s.id = v_twin;
    UPDATE pgq_signal_wait AS s SET id = job.id WHERE s.id = v_twin;
    UPDATE pgq_merged AS m SET id = v_twin, twin = job.id WHERE m.id = job.id;
    IF _pgq_has_needs() THEN
        PERFORM _pgq_hand_over_needs(v_twin, job.id);
    END IF;
    RETURN true;
END
$_pgq_keep_place$;

COMMENT ON FUNCTION _pgq_keep_place(pgq_running) IS
    'If a job that has just merged into a twin is in an ordered queue, and the twin later in the same group, give the '
    'twin the id of the job, and with it its place. Returns whether that was so.';


-- Every way back to waiting goes through here, so no request to cancel the job is missed. May wait for the open
-- transaction of a producer that has inserted or updated a twin.
CREATE FUNCTION _pgq_requeue(
    job pgq_running,
    ripe_at timestamptz,
    attempt integer,
    merge boolean DEFAULT true
) RETURNS text
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_requeue$
DECLARE
    v_group_id bigint;
    -- An attempt that is not counted is taken back, any other one has failed.
    v_event text := CASE WHEN attempt < job.attempt THEN 'returned' ELSE 'failed' END;
    v_has_kept boolean;
BEGIN
    IF _pgq_take_cancel_request(job.id) THEN
        job.attempt := attempt;
        PERFORM _pgq_end(job, 'cancelled', pgq_now(), NULL);
        RETURN 'cancelled';
    END IF;

    IF job.group_key IS NOT NULL THEN
        v_group_id := _pgq_place(job.queue, job.group_key, ripe_at <= pgq_now());
    END IF;
    -- One pass, unless a worker claims the twin between the two statements: then the job waits after all.
    LOOP
        INSERT INTO pgq_waiting (
            id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
            enqueued_at, context, losses, newest_error, group_key, group_id, signature
        )
        VALUES (
            job.id, job.queue, job.kind, job.args, job.priority, ripe_at, attempt, job.max_retries,
            coalesce(job.backoff, '1 minute'), coalesce(job.backoff_cap, '1 hour'), job.dedup, job.dedup_key,
            job.enqueued_at, job.context, abs(job.losses), nullif(job.newest_error, 0), job.group_key,
            v_group_id,
            CASE WHEN job.dedup THEN _pgq_signature(job.queue, job.kind, job.args, job.dedup_key) END
        )
        ON CONFLICT (signature) WHERE signature IS NOT NULL DO NOTHING;
        IF FOUND THEN
            INSERT INTO pgq_count (queue, kind, event, jobs) VALUES (job.queue, job.kind, v_event, 1);
            IF _pgq_is_soon(ripe_at, pgq_now()) THEN
                PERFORM _pgq_wake(job.queue, (ripe_at <= pgq_now())::integer);
            ELSIF job.group_id IS NOT NULL THEN
                PERFORM _pgq_wake_next(job.queue, ARRAY[job.group_id]);
            END IF;
            RETURN 'waiting';
        END IF;

        IF NOT merge THEN
            RETURN NULL;
        END IF;
        IF _pgq_merge(
            job.id, _pgq_signature(job.queue, job.kind, job.args, job.dedup_key), ripe_at, attempt, abs(job.losses),
            nullif(job.newest_error, 0)
        ) THEN
            INSERT INTO pgq_count (queue, kind, event, jobs)
            VALUES (job.queue, job.kind, v_event, 1), (job.queue, job.kind, 'merged', 1);
            v_has_kept := job.group_key IS NOT NULL AND _pgq_keep_place(job);
            IF job.group_id IS NOT NULL THEN
                PERFORM _pgq_wake_next(job.queue, ARRAY[job.group_id]);
            END IF;
            RETURN CASE WHEN v_has_kept THEN 'waiting' ELSE 'merged' END;
        END IF;
    END LOOP;
END
$_pgq_requeue$;

COMMENT ON FUNCTION _pgq_requeue(pgq_running, timestamptz, integer, boolean) IS
    'Put a job that was just removed from pgq_running back into pgq_waiting, and wake a worker if it is ripe, or if '
    'its place lets another job start. Returns waiting; merged if it has merged with a twin that was waiting (in an '
    'ordered queue, the twin may take the place of the job: then waiting); or cancelled if pgq_cancel has requested '
    'that: it has ended. With merge false, returns NULL instead of merging: the job is in no table, and the caller '
    'must call again.';


CREATE FUNCTION _pgq_record_failure(
    job pgq_running,
    at timestamptz,
    error text,
    retry boolean,
    ripe_at timestamptz
) RETURNS text
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_record_failure$
DECLARE
    v_outcome text;
BEGIN
    job.newest_error := _pgq_add_error(job, at, error);
    IF job.attempt > job.max_retries OR NOT retry THEN
        v_outcome := CASE WHEN _pgq_take_cancel_request(job.id) THEN 'cancelled' ELSE 'dead' END;
        PERFORM _pgq_end(job, v_outcome, at, NULL);
    ELSE
        v_outcome := _pgq_requeue(job, ripe_at, job.attempt);
    END IF;
    RETURN CASE v_outcome WHEN 'waiting' THEN 'retry' ELSE v_outcome END;
END
$_pgq_record_failure$;

COMMENT ON FUNCTION _pgq_record_failure(pgq_running, timestamptz, text, boolean, timestamptz) IS
    'Record the error of a failed attempt. Then put the job back, ripe at ripe_at, or end it as dead if its retries '
    'are used up or retry is false, and as cancelled if pgq_cancel has requested that. Returns retry, merged, dead or '
    'cancelled.';
