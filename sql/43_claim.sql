-- Claim ripe jobs: out of pgq_waiting, into pgq_running, under a fresh token and a lease.

CREATE FUNCTION pgq_claim(
    queues text[] DEFAULT '{default}',
    max_jobs bigint DEFAULT 1,
    lease interval DEFAULT NULL,
    worker text DEFAULT NULL,
    max_bytes bigint DEFAULT 16777216
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
    lease_until timestamptz,
    context jsonb,
    suspect boolean,
    group_key text,
    saved jsonb
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    -- Leave the planner one plan, whatever the statistics say: the claim index in its own order, then TID scans. A
    -- disabled plan type has a huge cost, which would trigger JIT, and compiling takes longer than the query.
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_claim$
#variable_conflict use_column
DECLARE
    v_now timestamptz := pgq_now();
    v_allowed text[];
    v_ripe record;
    v_rows tid[];
    v_token bigint;
    v_lease_until timestamptz;
    v_stamp integer;
BEGIN
    UNLISTEN pgq_nothing;  -- what _pgq_refuse_in_maintenance does, without the cost of a call
    IF NOT _pgq_acts_as_owner() THEN
        v_allowed := _pgq_allowed_queues('worker');
    END IF;
    IF _pgq_is_usual_claim(queues, max_jobs, lease, worker, max_bytes, v_now, v_allowed) IS NOT TRUE THEN
        PERFORM _pgq_lease_end(v_now, coalesce(lease, '5 minutes'));
        PERFORM _pgq_check_claim(queues, max_jobs, worker, max_bytes);
    END IF;

    -- Two conditions: PostgreSQL prepares an expression as a whole, and few databases have any mark.
    IF _pgq_marks() IS NULL THEN
        v_ripe := _pgq_lock_ripe(queues, max_jobs, max_bytes, v_now);
    ELSIF _pgq_marks() & _pgq_marks_of(queues) = 0 THEN
        v_ripe := _pgq_lock_ripe(queues, max_jobs, max_bytes, v_now);
    ELSE
        v_ripe := _pgq_lock_marked(queues, max_jobs, max_bytes, v_now);
        lease := coalesce(lease, v_ripe.lease);
        IF v_ripe.in_turn_at IS NOT NULL AND v_ripe.token IS NOT NULL THEN
            RETURN QUERY
            SELECT r.id, r.token, r.queue, r.kind, r.args, r.attempt, r.max_retries, r.priority::integer, r.ripe_at,
                   r.enqueued_at, r.lease_until, r.context, r.losses IS NOT NULL, r.group_key,
                   CASE WHEN r.newest_error IS NOT NULL THEN _pgq_saved(r.id) END
            FROM _pgq_move_in_turn(
                v_ripe.rows, v_ripe.token, v_ripe.in_turn_at, coalesce(lease, '5 minutes'), worker) AS r;
            RETURN;
        END IF;
    END IF;
    IF v_ripe.token IS NULL THEN
        RETURN;
    END IF;

    -- A snapshot of its own: a row that was updated just before it was locked has a new ctid, which the snapshot of the
    -- statement that locked it does not see. One job costs less in one statement; many cost less in two, because then
    -- no whole row passes through a CTE.
    IF max_jobs = 1 THEN
        RETURN QUERY
        WITH taken AS (
            DELETE FROM pgq_waiting AS w
            WHERE w.ctid = ANY (v_ripe.rows)
            RETURNING w.*
        ), counted AS (
            INSERT INTO pgq_count (queue, kind, event, jobs, waited)
            SELECT t.queue, t.kind, 'claimed', 1, v_now - t.ripe_at FROM taken AS t
        )
        INSERT INTO pgq_running AS r (
            id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
            enqueued_at, context, token, lease_until, worker, claimed_at, losses, newest_error, group_key, group_id
        )
        SELECT t.id, t.queue, t.kind, t.args, t.priority, t.ripe_at, t.attempt + 1, coalesce(t.max_retries, 10),
               t.backoff, t.backoff_cap, t.dedup, t.dedup_key, t.enqueued_at, t.context, v_ripe.token,
               v_now + coalesce(lease, '5 minutes'), pgq_claim.worker, v_now, t.losses,
               coalesce(t.newest_error, CASE WHEN _pgq_is_timed(v_ripe.token) THEN 0 END), t.group_key,
               t.group_id
        FROM taken AS t
        RETURNING r.id, r.token, r.queue, r.kind, r.args, r.attempt, r.max_retries, r.priority::integer, r.ripe_at,
                  r.enqueued_at, r.lease_until, r.context, r.losses IS NOT NULL, r.group_key,
                  CASE WHEN r.newest_error IS NOT NULL THEN _pgq_saved(r.id) END;
        RETURN;
    END IF;
    v_rows := v_ripe.rows;
    v_token := v_ripe.token;
    v_lease_until := v_now + coalesce(lease, '5 minutes');
    v_stamp := CASE WHEN _pgq_is_timed(v_token) THEN 0 END;
    RETURN QUERY
    INSERT INTO pgq_running AS r (
        id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
        enqueued_at, context, token, lease_until, worker, claimed_at, losses, newest_error, group_key, group_id
    )
    SELECT w.id, w.queue, w.kind, w.args, w.priority, w.ripe_at, w.attempt + 1, coalesce(w.max_retries, 10),
           w.backoff, w.backoff_cap, w.dedup, w.dedup_key, w.enqueued_at, w.context, v_token, v_lease_until,
           pgq_claim.worker, v_now, w.losses, coalesce(w.newest_error, v_stamp), w.group_key, w.group_id
    FROM pgq_waiting AS w
    WHERE w.ctid = ANY (v_rows)
    ORDER BY w.priority, w.ripe_at, w.id
    RETURNING r.id, r.token, r.queue, r.kind, r.args, r.attempt, r.max_retries, r.priority::integer, r.ripe_at,
              r.enqueued_at, r.lease_until, r.context, r.losses IS NOT NULL, r.group_key,
              CASE WHEN r.newest_error IS NOT NULL THEN _pgq_saved(r.id) END;
    WITH taken AS (
        DELETE FROM pgq_waiting AS w
        WHERE w.ctid = ANY (v_rows)
        RETURNING w.queue, w.kind, w.ripe_at
    )
    INSERT INTO pgq_count (queue, kind, event, jobs, waited)
    SELECT t.queue, t.kind, 'claimed', count(*), sum(v_now - t.ripe_at)
    FROM taken AS t
    GROUP BY t.queue, t.kind;
END
$pgq_claim$;

COMMENT ON FUNCTION pgq_claim(text[], bigint, interval, text, bigint) IS
    'Take up to max_jobs ripe jobs of these queues: by priority, 0 first, then by queue in the order given, then by '
    'ripe_at. So ripe jobs of one priority and queue keep back those after them; a worker that names its queues in '
    'another order each time lets each come first in turn. From a queue with groups or limits (see pgq_configure), a '
    'claim takes at the place of the queue in the list: of each group in turn, by priority within the group. Each row '
    'has the token that every further call about the job must present; the attempt is counted; saved is what the job '
    'has saved in earlier attempts (see pgq_save), or NULL. Fewer rows than '
    'max_jobs do not mean that no other job is ripe: once the args of the jobs taken reach max_bytes, as they are '
    'stored, no further job is taken; and a suspect, which is a job that was lost together with others, is returned '
    'alone. Ripe jobs that are not taken may stay locked until the end of the transaction. If the lease ends before '
    'the job is completed, put back or extended, a later claim rescues it. About once a second in each session, a '
    'claim first rescues up to 50 jobs, of any queue, whose lease has ended or whose worker is gone. Jobs of a queue '
    'or group that is paused stay where they are (see pgq_pause). Returns no row if no job is ripe. A ripe job is not '
    'returned while another transaction has it locked, and may be missed for some minutes while it lies among the '
    'index entries of many claimed jobs. worker is the name under which the jobs are held (see pgq_register); NULL '
    'means none. NULL for lease means the longest that these queues have among their settings (see pgq_configure), or '
    'else 5 minutes. Any other NULL, also among the queues, raises 22004. Raises 22023 for a bad value, 42501 for a '
    'queue that the calling role may not use; in REPEATABLE READ or SERIALIZABLE 25001 if a queue has limits, and '
    '40001 if one got its first limit after the snapshot of the transaction.';
