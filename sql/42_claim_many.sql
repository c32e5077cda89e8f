-- A claim from several queues, of which most may be empty.

-- Looking for a job in one lane costs a microsecond, and a worker with a thousand queues has ten thousand lanes. So a
-- bare claim looks up the first entry of each queue, which is in the first lane that is not empty. Of the lanes that it
-- finds so, it scans those of the most urgent priority, then looks up the next lanes of their queues, and so on.
--
-- A look that finds an entry costs several times as much as one that finds none. So the first look ends at max_jobs
-- lanes, which are enough for most claims, if no later queue has a lane before the lowest of these.
CREATE FUNCTION _pgq_lock_in_many(
    queues text[],
    max_jobs bigint,
    at timestamptz,
    OUT rows tid[],
    OUT jobs integer,
    OUT bytes bigint,
    OUT suspects integer,
    OUT failed bigint
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_lock_in_many$
DECLARE
    v_queues text[] := queues;
    v_priorities smallint[];
    v_ripe_ats timestamptz[];
    v_ids bigint[];
    v_priority smallint := -1;
    v_floor smallint := -1;     -- no queue in v_later has an entry of this priority or a lower one
    v_later text[] := '{}';     -- queues that were not looked up yet
    v_limit bigint := max_jobs;
    v_last bigint;
BEGIN
    rows := '{}';
    jobs := 0;
    bytes := 0;
    suspects := 0;
    failed := 0;
    LOOP
        -- Lanes that still lie ahead need not be looked up again. Each scan begins just before its first entry.
        SELECT array_agg(l.queue), array_agg(l.priority), array_agg(l.ripe_at), array_agg(l.id), min(l.priority),
               max(l.n)
        INTO v_queues, v_priorities, v_ripe_ats, v_ids, v_priority, v_last
        FROM (
            SELECT known.queue, next.priority, next.ripe_at, next.id, known.n
            FROM unnest(v_queues, v_priorities, v_ripe_ats, v_ids)
                 WITH ORDINALITY AS known (queue, priority, ripe_at, id, n)
            CROSS JOIN LATERAL (
                SELECT known.priority, known.ripe_at, known.id
                WHERE known.priority > v_priority
                UNION ALL
                (
                    SELECT w.priority, w.ripe_at, w.id - 1
                    FROM pgq_waiting AS w
                    WHERE (known.priority > v_priority) IS NOT TRUE
                      AND w.queue = known.queue COLLATE "C"
                      AND w.group_id IS NULL
                      AND w.priority > coalesce(known.priority, v_floor)
                    ORDER BY w.priority, w.ripe_at, w.id
                    LIMIT 1
                )
            ) AS next
            ORDER BY known.n
            LIMIT v_limit
        ) AS l;
        EXIT WHEN v_queues IS NULL;

        IF cardinality(v_queues) = v_limit THEN
            v_later := queues[v_last + 1:];
            IF EXISTS (
                SELECT
                FROM unnest(v_later) AS later (queue)
                CROSS JOIN LATERAL (
                    SELECT
                    FROM pgq_waiting AS w
                    WHERE w.queue = later.queue COLLATE "C"
                      AND w.group_id IS NULL
                      AND w.priority < v_priority
                    LIMIT 1
                ) AS earlier
            ) THEN
                v_priority := -1;
                v_queues := v_queues || v_later;
                v_later := '{}';
                v_limit := NULL;
                CONTINUE;
            END IF;
        END IF;
        v_limit := NULL;

        SELECT _pgq_lock_in_many.rows || coalesce(array_agg(locked.ctid), '{}'),
               _pgq_lock_in_many.jobs + count(*),
               _pgq_lock_in_many.bytes + coalesce(sum(locked.bytes), 0),
               _pgq_lock_in_many.suspects + count(locked.losses),
               _pgq_lock_in_many.failed + count(locked.newest_error)
        INTO rows, jobs, bytes, suspects, failed
        FROM (
            SELECT ripe.ctid, ripe.bytes, ripe.losses, ripe.newest_error
            FROM unnest(v_queues, v_priorities, v_ripe_ats, v_ids) AS lane (queue, priority, ripe_at, id)
            CROSS JOIN LATERAL (
                SELECT w.ctid, pg_column_size(w.args) + coalesce(pg_column_size(w.context), 0) AS bytes, w.losses,
                       w.newest_error
                FROM pgq_waiting AS w
                WHERE w.queue = lane.queue COLLATE "C"
                  AND w.group_id IS NULL
                  AND w.priority = lane.priority
                  AND (w.ripe_at, w.id) > (lane.ripe_at, lane.id)
                  AND w.ripe_at <= at
                ORDER BY w.ripe_at, w.id
                LIMIT max_jobs - _pgq_lock_in_many.jobs
                FOR UPDATE SKIP LOCKED
            ) AS ripe
            WHERE lane.priority = v_priority
              AND lane.ripe_at <= at
            LIMIT max_jobs - _pgq_lock_in_many.jobs
        ) AS locked;
        EXIT WHEN jobs = max_jobs;
        v_floor := v_priority - 1;
        v_queues := v_queues || v_later;
        v_later := '{}';
    END LOOP;
END
$_pgq_lock_in_many$;

COMMENT ON FUNCTION _pgq_lock_in_many(text[], bigint, timestamptz) IS
    'Lock the rows of up to max_jobs jobs without a group of these queues, each named once, that are ripe at a time. '
    'Returns their ctids, in the order of the lanes, their number, the size of their args and contexts as they are '
    'stored, how many of them are suspects, and how many have errors.';


CREATE FUNCTION _pgq_drop_empty(heads pgq_head[]) RETURNS pgq_head[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_drop_empty$
BEGIN
    RETURN ARRAY(
        SELECT ROW(h.queue, h.due, h.rescan_delay, h.lanes)::pgq_head
        FROM unnest(heads) WITH ORDINALITY AS h (queue, due, rescan_delay, lanes, n)
        CROSS JOIN LATERAL (
            SELECT WHERE h.lanes <> '{}'
            UNION ALL
            (
                SELECT
                FROM pgq_waiting AS w
                WHERE h.lanes = '{}' AND w.queue = h.queue COLLATE "C" AND w.group_id IS NULL
                LIMIT 1
            )
        ) AS filled
        ORDER BY h.n
    );
END
$_pgq_drop_empty$;

COMMENT ON FUNCTION _pgq_drop_empty(pgq_head[]) IS
    'Return these heads without the queues in which no job waits that has no group, as far as no head is known of '
    'them.';
