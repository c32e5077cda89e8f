-- Where a claim begins: at the heads, or with a long scan.

CREATE FUNCTION _pgq_load_head(queue text, at timestamptz) RETURNS pgq_head
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_load_head$
DECLARE
    v_setting text := current_setting(_pgq_head_setting(queue), true);
    v_wait bigint;
    v_delay bigint;
    v_head pgq_head := ROW(queue, at, '0', '{}');
    v_shared pgq_head;
    v_is_shared boolean := false;
    v_is_unfinished boolean;
BEGIN
    IF v_setting <> '' THEN
        BEGIN
            v_head.lanes := split_part(v_setting, ' ', 3)::_pgq_lane_head[];
            v_delay := least(split_part(v_setting, ' ', 2)::bigint, 600000000);
            v_wait := split_part(v_setting, ' ', 1)::bigint - _pgq_microseconds(at);
        EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
            -- Damaged or forged. Raising would keep every client of a pooled session from its jobs.
            v_head.lanes := '{}';
        END;
        -- A due that is further ahead than its rescan_delay was kept before the clock was set back.
        IF v_wait BETWEEN 1 AND v_delay THEN
            v_head.due := at + v_wait * interval '1 microsecond';
            v_head.rescan_delay := v_delay * interval '1 microsecond';
            RETURN v_head;
        END IF;
    END IF;

    v_shared := _pgq_shared_head(queue, at);
    -- Nothing is known after a crash, and in a new database. A small index is scanned in a few milliseconds; of a large
    -- one, one session makes the first scan, and shares the result whatever it is, so that no session waits again.
    IF v_shared.due IS NULL
       AND current_setting('transaction_isolation') = 'read committed'
       AND pg_relation_size(CASE queue WHEN '' THEN 'pgq_running_lease' ELSE 'pgq_waiting_claim' END) > 8000000 THEN
        PERFORM _pgq_await_head(queue, at);
        v_head.rescan_delay := '1 second';
        v_shared := _pgq_shared_head(queue, clock_timestamp());
    END IF;
    IF v_shared.rescan_delay > interval '0' THEN
        IF v_head.lanes = '{}' THEN
            v_head.lanes := ARRAY(
                SELECT ROW(l.priority, l.next_ripe_us, l.next_id, l.next_ripe_us, l.next_id)::_pgq_lane_head
                FROM unnest(v_shared.lanes) AS l
            );
            v_is_shared := true;
        END IF;
        IF NOT _pgq_may_scan(v_shared, at) THEN
            v_head.due := greatest(v_shared.due, at + v_shared.rescan_delay / 10);
            v_head.rescan_delay := v_head.due - at;
            PERFORM _pgq_save_head(v_head);
            IF v_is_shared THEN
                v_head.rescan_delay := NULL;
            END IF;
            RETURN v_head;
        END IF;
        v_head.rescan_delay := v_shared.rescan_delay;
    END IF;

    -- A scan begins at the start of each lane, or goes on where an unfinished one has ended.
    v_is_unfinished := EXISTS (
        SELECT FROM unnest(v_shared.lanes) AS l
        WHERE (l.here_ripe_us, l.here_id) IS DISTINCT FROM (l.next_ripe_us, l.next_id)
    );
    v_head.lanes := ARRAY(
        SELECT ROW(l.priority, unfinished.here_ripe_us, unfinished.here_id, l.next_ripe_us, l.next_id)::_pgq_lane_head
        FROM unnest(v_head.lanes) AS l
        LEFT JOIN unnest(v_shared.lanes) AS unfinished
               ON unfinished.priority = l.priority AND v_is_unfinished
    );
    RETURN v_head;
END
$_pgq_load_head$;

COMMENT ON FUNCTION _pgq_load_head(text, timestamptz) IS
    'Return the heads of a queue that this session has kept, or else those that another session has shared; no lanes '
    'where nothing is known. When due has passed, this claim makes the long scan, and rescan_delay is positive if '
    'other sessions leave it to this one. Otherwise, rescan_delay is NULL if the heads are those that another session '
    'has shared.';


-- With many queues, few of them have a head. What is kept and what is shared of all of them is looked up in one
-- statement, and only where there is something, _pgq_load_head is called.
CREATE FUNCTION _pgq_load_heads(queues text[], at timestamptz) RETURNS pgq_head[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_load_heads$
DECLARE
    v_is_small boolean;
BEGIN
    IF cardinality(queues) = 1 THEN
        RETURN ARRAY[_pgq_load_head(queues[1], at)];
    END IF;
    v_is_small := pg_relation_size('pgq_waiting_claim') <= 8000000
        OR current_setting('transaction_isolation') <> 'read committed';
    RETURN ARRAY(
        SELECT CASE
                   WHEN coalesce(current_setting(_pgq_head_setting(q.queue), true), '') = ''
                        AND coalesce(shared.rescan_delay <= interval '0', v_is_small)
                       THEN ROW(q.queue, at, '0', '{}')::pgq_head
                   ELSE _pgq_load_head(q.queue, at)
               END
        FROM unnest(queues) WITH ORDINALITY AS q (queue, n)
        LEFT JOIN LATERAL (
            SELECT h.rescan_delay
            FROM pgq_head AS h
            WHERE h.queue = q.queue
              AND h.due < at + interval '6 minutes'
              AND h.due < at + h.rescan_delay + interval '1 second'
            ORDER BY h.due DESC
            LIMIT 1
        ) AS shared ON true
        ORDER BY q.n
    );
END
$_pgq_load_heads$;

COMMENT ON FUNCTION _pgq_load_heads(text[], timestamptz) IS
    'Return for each of these queues what _pgq_load_head returns.';
