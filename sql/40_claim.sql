-- Claim ripe jobs: out of pgq_waiting, into pgq_running, under a fresh token and a lease.

CREATE FUNCTION pgq_claim(
    queues text[] DEFAULT '{default}',
    max_jobs integer DEFAULT 1,
    lease interval DEFAULT '5 minutes',
    worker text DEFAULT NULL
) RETURNS TABLE (
    id bigint,
    token bigint,
    queue text,
    kind text,
    args jsonb,
    attempt integer,
    max_retries integer,
    priority integer,
    ripe_at timestamptz,
    enqueued_at timestamptz,
    lease_until timestamptz
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    -- Leave the planner one way, whatever the statistics say: the claim index in its own order, then TID scans. What
    -- is off counts as so dear that every plan would be compiled, for longer than it runs: no JIT.
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
AS $pgq_claim$
#variable_conflict use_column
DECLARE
    v_now timestamptz := pgq_now();
    v_lease_until timestamptz := _pgq_lease_end(v_now, lease);
    v_rows tid[];
BEGIN
    PERFORM _pgq_check_claim(queues, max_jobs, worker);

    IF EXISTS (SELECT FROM pgq_running AS r WHERE r.lease_until < v_now) THEN
        PERFORM _pgq_expire(v_now);
    END IF;

    -- Lane by lane, lazily: nothing is locked but what is returned. A lane that is named twice would offer the same
    -- rows twice, since SKIP LOCKED does not skip this transaction's own locks.
    v_rows := ARRAY(
        SELECT ripe.ctid
        FROM (
            SELECT p.priority, q.queue
            FROM generate_series(0, 9) AS p (priority)
            CROSS JOIN (
                SELECT u.queue, min(u.n) AS n
                FROM unnest(pgq_claim.queues) WITH ORDINALITY AS u (queue, n)
                GROUP BY u.queue
            ) AS q
            ORDER BY p.priority, q.n
        ) AS lane
        CROSS JOIN LATERAL (
            SELECT w.ctid
            FROM pgq_waiting AS w
            WHERE w.queue = lane.queue
              AND w.priority = lane.priority
              AND w.ripe_at <= v_now
            ORDER BY w.ripe_at, w.id
            LIMIT max_jobs
            FOR UPDATE SKIP LOCKED
        ) AS ripe
        LIMIT max_jobs
    );
    IF v_rows = '{}' THEN
        RETURN;
    END IF;

    -- A statement of its own, for a snapshot of its own: a row that was changed just before it was locked has a new
    -- ctid, which the snapshot of the statement above does not see.
    RETURN QUERY
    WITH taken AS (
        DELETE FROM pgq_waiting AS w
        WHERE w.ctid = ANY (v_rows)
        RETURNING w.*
    )
    INSERT INTO pgq_running AS r (
        id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
        enqueued_at, errors, token, lease_until, worker, claimed_at
    )
    SELECT t.id, t.queue, t.kind, t.args, t.priority, t.ripe_at, t.attempt + 1, t.max_retries, t.backoff, t.backoff_cap,
           t.dedup, t.dedup_key, t.enqueued_at, t.errors, nextval('pgq_token'), v_lease_until, pgq_claim.worker, v_now
    FROM taken AS t
    ORDER BY t.priority, t.ripe_at, t.id
    RETURNING r.id, r.token, r.queue, r.kind, r.args, r.attempt, r.max_retries, r.priority::integer, r.ripe_at,
              r.enqueued_at, r.lease_until;
END
$pgq_claim$;

COMMENT ON FUNCTION pgq_claim(text[], integer, interval, text) IS
    'Take up to max_jobs ripe jobs of these queues, lowest priority number first, then by ripe_at; within one priority '
    'the queues are served in the order given. Each row carries the token that every further call about the job wants '
    'back; the attempt is counted. When lease runs out before the job is completed, failed, released, snoozed or '
    'extended, the job is taken back. No ripe job: no row. Expired leases of any queue are settled first. NULL is '
    'refused (22004) but for worker, a name to be shown; bad values raise 22023.';
