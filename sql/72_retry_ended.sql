-- Retry a job that has ended, as an operator.

CREATE FUNCTION pgq_retry(id bigint) RETURNS text
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_retry$
DECLARE
    v_now timestamptz := pgq_now();
    v_allowed text[] := _pgq_allowed_queues('admin');
    v_job pgq_ended;
    v_ripe_at timestamptz;
BEGIN
    DELETE FROM pgq_ended AS e
    WHERE e.id = pgq_retry.id
      AND (v_allowed IS NULL OR e.queue = ANY (v_allowed))
      AND e.outcome IN ('dead', 'cancelled')
    RETURNING e.* INTO v_job;

    IF NOT FOUND THEN
        RAISE EXCEPTION 'job % is % and cannot be retried', id, _pgq_job_state(id)
            USING ERRCODE = 'PGQ03',
                  HINT = 'Retry only a dead or cancelled job; to make a waiting one ripe at once, enqueue it again '
                         'with on_duplicate => ''soonest''.';
    END IF;

    v_ripe_at := greatest(v_job.ripe_at, v_now);
    PERFORM _pgq_take_cancel_request(id);
    INSERT INTO pgq_count (queue, kind, event, jobs) VALUES (v_job.queue, v_job.kind, 'retried', 1);
    -- It is alive again, for those that wait for it.
    DELETE FROM pgq_need_ended AS n
    WHERE n.ctid = ANY (ARRAY(
        SELECT o.ctid FROM pgq_need_ended AS o WHERE o.id = pgq_retry.id FOR UPDATE SKIP LOCKED));

    -- One pass, unless a worker claims the twin between the two statements, as in _pgq_requeue.
    LOOP
        INSERT INTO pgq_waiting (
            id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
            enqueued_at, context, losses, newest_error, group_key, group_id, signature
        )
        VALUES (
            v_job.id, v_job.queue, v_job.kind, v_job.args, v_job.priority, v_ripe_at, 0, v_job.max_retries,
            coalesce(v_job.backoff, '1 minute'), coalesce(v_job.backoff_cap, '1 hour'), v_job.dedup, v_job.dedup_key,
            v_job.enqueued_at, v_job.context, v_job.losses, v_job.newest_error, v_job.group_key,
            _pgq_place(v_job.queue, v_job.group_key, v_ripe_at <= v_now),
            CASE WHEN v_job.dedup THEN _pgq_signature(v_job.queue, v_job.kind, v_job.args, v_job.dedup_key) END
        )
        ON CONFLICT (signature) WHERE signature IS NOT NULL DO NOTHING;
        IF FOUND THEN
            IF _pgq_is_soon(v_ripe_at, v_now) THEN
                PERFORM _pgq_wake(v_job.queue, (v_ripe_at <= v_now)::integer);
            END IF;
            RETURN 'retry';
        END IF;

        IF _pgq_merge(
            v_job.id, _pgq_signature(v_job.queue, v_job.kind, v_job.args, v_job.dedup_key), v_now, 0, v_job.losses,
            v_job.newest_error
        ) THEN
            INSERT INTO pgq_count (queue, kind, event, jobs) VALUES (v_job.queue, v_job.kind, 'merged', 1);
            RETURN 'merged';
        END IF;
    END LOOP;
END
$pgq_retry$;

COMMENT ON FUNCTION pgq_retry(bigint) IS
    'Put a dead or cancelled job back to waiting: ripe now, or at its ripe_at if that lies ahead, its attempts counted '
    'from the start, its errors kept. Returns retry, or merged if a twin is waiting: the twin takes over the errors, '
    'and keeps its time and its attempts. Raises PGQ01 if there is no such job, if it is in a queue that the calling '
    'role may not use, or for NULL; PGQ03 for a job in another state.';
