-- How a worker sleeps: it is notified of ripe jobs (60_notify.sql), and knows when the next one is ripe.

-- An enqueue holds the lock of the shared slot for an instant, so it is tried for about 20 milliseconds, and no longer:
-- any role can take it and keep it.
CREATE FUNCTION _pgq_sleep_in_slot(queue text) RETURNS text
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_sleep_in_slot$
DECLARE
    c_class CONSTANT integer := 'pgq_waiting'::regclass::oid::integer;
    v_slot integer;
BEGIN
    FOR v_n IN 0..15 LOOP
        v_slot := (pg_backend_pid() + v_n) % 16;
        IF pg_try_advisory_lock(c_class, _pgq_slot_key(queue, v_slot)) THEN
            RETURN _pgq_channel(queue, v_slot);
        END IF;
    END LOOP;
    FOR v_try IN 1..20 LOOP
        EXIT WHEN pg_try_advisory_lock_shared(c_class, _pgq_slot_key(queue, 16));
        PERFORM pg_sleep(0.001);
    END LOOP;
    RETURN _pgq_channel(queue, 16);
END
$_pgq_sleep_in_slot$;

COMMENT ON FUNCTION _pgq_sleep_in_slot(text) IS
    'Take a free slot of a queue, or else the shared one. Returns its channel.';


CREATE FUNCTION pgq_idle(
    queues text[] DEFAULT '{default}',
    idle boolean DEFAULT true,
    pass_on boolean DEFAULT false
) RETURNS SETOF text
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_idle$
DECLARE
    c_class CONSTANT integer := 'pgq_waiting'::regclass::oid::integer;
    c_many CONSTANT integer := 16;
    v_many boolean;
    v_queue text;
    v_buckets integer[];
BEGIN
    IF idle IS NULL OR pass_on IS NULL THEN
        RAISE EXCEPTION '% is null', CASE WHEN idle IS NULL THEN 'idle' ELSE 'pass_on' END
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Pass true before the session sleeps, and false when it is awake again.';
    END IF;
    IF queues = '{}' THEN
        PERFORM _pgq_refuse_in_maintenance();
    ELSE
        PERFORM _pgq_check_claim(queues, 0, NULL);
        queues := _pgq_distinct(queues);
    END IF;
    v_many := cardinality(queues) = 0 OR cardinality(queues) > c_many;

    -- Session locks are counted, so all are released before any is taken.
    PERFORM CASE l.mode
                WHEN 'ShareLock' THEN pg_advisory_unlock_shared(c_class, l.objid::integer)
                ELSE pg_advisory_unlock(c_class, l.objid::integer)
            END
    FROM pg_locks AS l
    WHERE l.locktype = 'advisory'
      AND l.pid = pg_backend_pid()
      AND l.classid = 'pgq_waiting'::regclass
      AND l.objsubid = 2;

    IF idle THEN
        v_buckets := ARRAY(
            SELECT DISTINCT hashtext(q) & 63 FROM unnest(queues) AS q WHERE NOT v_many
            UNION ALL
            SELECT b FROM generate_series(0, 63) AS b WHERE v_many);
        FOR v_try IN 1..20 LOOP
            v_buckets := ARRAY(
                SELECT b FROM unnest(v_buckets) AS b WHERE NOT pg_try_advisory_lock_shared(c_class, b));
            EXIT WHEN v_buckets = '{}';
            PERFORM pg_sleep(0.001);
        END LOOP;
    END IF;
    IF v_many THEN
        -- All sessions like this one were notified, so it passes nothing on.
        IF idle THEN
            RETURN NEXT _pgq_sleep_in_slot('');
        END IF;
        RETURN;
    END IF;
    FOREACH v_queue IN ARRAY queues LOOP
        IF idle THEN
            RETURN NEXT _pgq_sleep_in_slot(v_queue);
        ELSIF pass_on THEN
            PERFORM _pgq_wake(v_queue);
        END IF;
    END LOOP;
END
$pgq_idle$;

COMMENT ON FUNCTION pgq_idle(text[], boolean, boolean) IS
    'Declare that this session is about to sleep until jobs of these queues are ripe (idle true), or is awake again '
    '(false). An empty array stands for all queues, and counts as more than 16. Returns the channels on which the '
    'session is notified of ripe jobs while it sleeps: one for each queue, one in all for more than 16 queues, none '
    'for an awake session. A ripe job wakes one of the sessions that sleep for its queue, but all of those with more '
    'than 16 queues, whichever these are, if no other sleeps for it. Before it sleeps, a worker calls this function, '
    'executes LISTEN for the channels, and claims once more. It sleeps until it is notified, or until pgq_ripe_in '
    'tells that a job is ripe, but looks once a second: a notification is a hint. After the payload "later" it asks '
    'pgq_ripe_in, because a job will be ripe soon; after any other it calls this function with idle false, and claims. '
    'If it was notified and cannot claim, pass_on wakes another session instead. NULL for an argument, or one of the '
    'queues, raises 22004. Raises 42501 for a queue that the calling role may not use.';


-- A claim finds the jobs before the heads only when it scans from the start, so it is called when that is due.
CREATE FUNCTION pgq_ripe_in(queues text[] DEFAULT '{default}') RETURNS interval
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_ripe_in$
DECLARE
    c_again CONSTANT interval := '10 milliseconds';
    v_now timestamptz := pgq_now();
    v_served text[] := queues;
    v_begun_at timestamptz;
    v_heads pgq_head[];
    v_looked record;
    v_next_at timestamptz;
BEGIN
    PERFORM _pgq_check_claim(queues, 0, NULL);
    IF _pgq_marks() & _pgq_marks_of(queues) <> 0 THEN
        v_next_at := _pgq_resumes_at(queues, v_now);
        v_looked := _pgq_look_at_queues(queues, v_now);
        v_next_at := least(v_next_at, (SELECT min(_pgq_turn_at(q, v_now)) FROM unnest(v_looked.special) AS q));
        queues := ARRAY(SELECT q FROM unnest(v_looked.open) AS q WHERE q <> ALL (v_looked.special));
        IF queues = '{}' THEN
            IF _pgq_maintain(v_now) = '-infinity' THEN
                v_next_at := least(v_next_at, v_now + c_again);
            END IF;
            RETURN least(v_next_at, _pgq_next_slot(v_served, v_now)) - v_now;
        END IF;
    END IF;
    IF _pgq_is_bare(_pgq_digest(queues), _pgq_microseconds(v_now)) THEN
        v_heads := ARRAY(SELECT ROW(q, v_now, '0', '{}')::pgq_head FROM unnest(queues) AS q);
    ELSE
        IF _pgq_maintain(v_now) = '-infinity' THEN
            v_next_at := least(v_next_at, v_now + c_again);
        END IF;
        v_begun_at := clock_timestamp();
        v_heads := _pgq_load_heads(queues, v_begun_at);
        IF EXISTS (SELECT FROM unnest(v_heads) AS h WHERE h.due <= v_begun_at AND h.lanes <> '{}') THEN
            RETURN '0';
        END IF;
    END IF;
    -- Of a queue without heads, the lanes are those from its first entry on.
    RETURN (
        SELECT least(min(soonest.ripe_at), v_next_at, _pgq_next_slot(v_served, v_now)) - v_now
        FROM unnest(v_heads) AS h (queue, due, rescan_delay, lanes)
        CROSS JOIN LATERAL (
            SELECT 0::smallint WHERE h.lanes <> '{}'
            UNION ALL
            (
                SELECT w.priority
                FROM pgq_waiting AS w
                WHERE h.lanes = '{}' AND w.queue = h.queue COLLATE "C" AND w.group_id IS NULL
                ORDER BY w.priority, w.ripe_at, w.id
                LIMIT 1
            )
        ) AS first (lane)
        CROSS JOIN LATERAL generate_series(first.lane, 9) AS p (priority)
        LEFT JOIN LATERAL unnest(h.lanes) AS known USING (priority)
        CROSS JOIN LATERAL (
            SELECT w.ripe_at
            FROM pgq_waiting AS w
            WHERE w.queue = h.queue COLLATE "C"
              AND w.group_id IS NULL
              AND w.priority = p.priority
              AND (w.ripe_at, w.id) > (_pgq_lane_start(known.here_ripe_us), coalesce(known.here_id, 0))
            ORDER BY w.ripe_at, w.id
            LIMIT 1
        ) AS soonest
    );
END
$pgq_ripe_in$;

COMMENT ON FUNCTION pgq_ripe_in(text[]) IS
    'Return the time until the next job of these queues is ripe (0 or less: claim now; NULL: none waits, or only in '
    'queues that are paused until they are resumed). It looks where the next claim of this session would begin, and '
    'first rescues jobs as a claim does, so a session that calls it once a second need not claim; where more jobs are '
    'to be rescued, or schedules to be fired, the time is 10 milliseconds at most. NULL for queues or one of them '
    'raises 22004. Raises 22023 for an empty array, 42501 for a queue that the calling role may not use.';
