-- Requests to cancel running jobs: how they are made, looked up and removed.

-- Waits if another transaction has inserted the same request, and not committed yet.
CREATE FUNCTION _pgq_request_cancel(id bigint, at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_request_cancel$
BEGIN
    INSERT INTO pgq_cancel_request (id, requested_at)
    VALUES (_pgq_request_cancel.id, at)
    ON CONFLICT DO NOTHING;
EXCEPTION
    WHEN lock_not_available THEN
        RAISE EXCEPTION 'another transaction is cancelling job %', _pgq_request_cancel.id
            USING ERRCODE = 'lock_not_available',
                  HINT = 'Try again when that transaction has ended.';
END
$_pgq_request_cancel$;

COMMENT ON FUNCTION _pgq_request_cancel(bigint, timestamptz) IS
    'Request to cancel a running job, unless that is requested already. Returns nothing. Raises 55P03 if that takes '
    'longer than the lock_timeout.';


-- A function of its own, so that only a call that waits has a subtransaction: a transaction that cancels many jobs
-- should have few of them.
CREATE FUNCTION _pgq_await_waiting(id bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_await_waiting$
BEGIN
    PERFORM FROM pgq_waiting AS w WHERE w.id = _pgq_await_waiting.id FOR UPDATE;
EXCEPTION
    WHEN lock_not_available THEN
        RAISE EXCEPTION 'another transaction has locked job %', _pgq_await_waiting.id
            USING ERRCODE = 'lock_not_available',
                  HINT = 'Try again when that transaction has ended: it claims the job, or has enqueued a duplicate.';
END
$_pgq_await_waiting$;

COMMENT ON FUNCTION _pgq_await_waiting(bigint) IS
    'Wait for the lock on a waiting job. Returns nothing. Raises 55P03 if that takes longer than the lock_timeout.';


CREATE FUNCTION _pgq_take_cancel_request(id bigint) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_take_cancel_request$
BEGIN
    DELETE FROM pgq_cancel_request AS c WHERE c.id = _pgq_take_cancel_request.id;
    RETURN FOUND;
END
$_pgq_take_cancel_request$;

COMMENT ON FUNCTION _pgq_take_cancel_request(bigint) IS
    'Remove the request to cancel a job. Returns whether there was one.';


CREATE FUNCTION _pgq_cancel_waiting(job pgq_waiting, at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_cancel_waiting$
BEGIN
    job := _pgq_with_defaults(job);
    INSERT INTO pgq_ended (
        id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
        enqueued_at, context, outcome, ended_at, losses, newest_error, group_key, group_id
    )
    VALUES (
        job.id, job.queue, job.kind, job.args, job.priority, job.ripe_at, job.attempt, job.max_retries, job.backoff,
        job.backoff_cap, job.dedup, job.dedup_key, job.enqueued_at, job.context, 'cancelled', at, job.losses,
        nullif(job.newest_error, 0), job.group_key, _pgq_group_id(job.group_key)
    );
    INSERT INTO pgq_count (queue, kind, event, jobs) VALUES (job.queue, job.kind, 'cancelled', 1);
    PERFORM _pgq_take_cancel_request(job.id), _pgq_tell_end(job.id, 'failed');
END
$_pgq_cancel_waiting$;

COMMENT ON FUNCTION _pgq_cancel_waiting(pgq_waiting, timestamptz) IS
    'Put a job that was just removed from pgq_waiting into pgq_ended as cancelled. Returns nothing.';


-- The subqueries leave the planner one plan: a look-up in each primary key, however many rows it believes there are.
CREATE FUNCTION pgq_cancel_requested(ids bigint[], tokens bigint[]) RETURNS SETOF bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_cancel_requested$
DECLARE
    v_allowed text[] := _pgq_allowed_queues('worker');
BEGIN
    PERFORM _pgq_check_pairs(ids, tokens);

    RETURN QUERY
    SELECT given.id
    FROM unnest(ids, tokens) AS given (id, token)
    WHERE (SELECT true FROM pgq_cancel_request AS c WHERE c.id = given.id)
      AND (
          SELECT true
          FROM _pgq_running AS r
          WHERE r.id = given.id
            AND r.token = given.token
            AND (v_allowed IS NULL OR r.queue = ANY (v_allowed))
      );
END
$pgq_cancel_requested$;

COMMENT ON FUNCTION pgq_cancel_requested(bigint[], bigint[]) IS
    'Return which of these running jobs, each held under its token, pgq_cancel has requested to cancel. Their worker '
    'stops working on them, and calls pgq_cancel_claimed. Waits for no lock, and is cheap: call it about once a second '
    'while jobs run. NULL for ids or tokens raises 22004, arrays of different lengths raise 2202E.';


-- Claims call it, so it waits for no lock and reads fifty requests at most, from a random one on if there are more.
CREATE FUNCTION _pgq_settle_cancel_requests(at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_settle_cancel_requests$
DECLARE
    v_ids bigint[] := ARRAY(SELECT c.id FROM pgq_cancel_request AS c ORDER BY c.id LIMIT 51);
    v_last bigint;
    v_job pgq_waiting;
BEGIN
    IF v_ids = '{}' THEN
        RETURN;
    END IF;
    IF cardinality(v_ids) > 50 THEN
        v_last := (SELECT max(c.id) FROM pgq_cancel_request AS c);
        v_ids := ARRAY(
            SELECT c.id
            FROM pgq_cancel_request AS c
            WHERE c.id >= v_ids[1] + floor(random() * (v_last - v_ids[1] + 1))::bigint
            ORDER BY c.id
            LIMIT 50
        );
    END IF;

    -- Requests that were committed too late for a way back to waiting: end the jobs while they wait.
    FOR v_job IN
        DELETE FROM pgq_waiting AS w
        WHERE w.ctid = ANY (ARRAY(
            SELECT o.ctid
            FROM pgq_waiting AS o
            WHERE o.id = ANY (v_ids)
              AND EXISTS (SELECT FROM pgq_cancel_request AS c WHERE c.id = o.id)
            FOR UPDATE SKIP LOCKED))
        RETURNING w.*
    LOOP
        PERFORM _pgq_cancel_waiting(v_job, at);
    END LOOP;

    -- Requests of jobs that have ended. In one statement, so that a job that is just being claimed or put back is seen
    -- on one side or the other.
    WITH running AS MATERIALIZED (
        SELECT r.id FROM _pgq_running AS r WHERE r.id = ANY (v_ids)
    )
    DELETE FROM pgq_cancel_request AS c
    WHERE c.ctid = ANY (ARRAY(
        SELECT o.ctid
        FROM pgq_cancel_request AS o
        WHERE o.id = ANY (v_ids)
          AND NOT EXISTS (SELECT FROM pgq_waiting AS w WHERE w.id = o.id)
          AND o.id NOT IN (SELECT r.id FROM running AS r)
        FOR UPDATE SKIP LOCKED));
END
$_pgq_settle_cancel_requests$;

COMMENT ON FUNCTION _pgq_settle_cancel_requests(timestamptz) IS
    'End waiting jobs whose cancellation is requested, and remove requests of jobs that have ended, up to 50. Returns '
    'nothing.';
