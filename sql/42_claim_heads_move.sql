-- What a claim learns about where the live jobs begin.

-- Lanes are walked by priority, then in the order of the queues: those before the lane of the last row to their end, and
-- if there was room for more rows, those after it too. The end counts as a tenth of a second ago, for the sake of jobs
-- that are enqueued and not yet committed.
CREATE FUNCTION _pgq_reached(heads pgq_head[], n integer, rows tid[], filled boolean, at timestamptz) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_reached$
DECLARE
    v_priority integer := 10;
    v_n integer := 0;
BEGIN
    IF filled THEN
        SELECT w.priority, h.ordinality INTO v_priority, v_n
        FROM (SELECT * FROM pgq_waiting WHERE ctid = rows[cardinality(rows)] OFFSET 0) AS w
        JOIN unnest(heads) WITH ORDINALITY AS h ON h.queue = w.queue;
    END IF;
    RETURN (
        SELECT array_agg(number.part ORDER BY p.priority, number.k)
        FROM generate_series(0, 9) AS p (priority)
        LEFT JOIN (
            -- Fenced: beside a condition on queue, an index that begins with it can look cheaper than these rows do.
            SELECT w.priority, max(ARRAY[_pgq_microseconds(w.ripe_at), w.id]) AS last
            FROM (SELECT * FROM pgq_waiting WHERE ctid = ANY (rows) OFFSET 0) AS w
            WHERE w.queue = heads[_pgq_reached.n].queue
            GROUP BY w.priority
        ) AS taken USING (priority)
        CROSS JOIN LATERAL unnest(CASE
            WHEN taken.last IS NOT NULL THEN taken.last
            WHEN (p.priority, _pgq_reached.n) < (v_priority, v_n) THEN ARRAY[_pgq_microseconds(at) - 100000, 0]
            ELSE ARRAY[NULL, NULL]::bigint[]
        END) WITH ORDINALITY AS number (part, k)
    );
END
$_pgq_reached$;

COMMENT ON FUNCTION _pgq_reached(pgq_head[], integer, tid[], boolean, timestamptz) IS
    'How far a claim that found these rows has walked in the lanes of its n-th queue, as in pgq_head; NULL: not at all.';


-- Only what a new session would notice. And in a stricter isolation the removal of old rows could fail.
CREATE FUNCTION _pgq_share_head(head pgq_head) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_share_head$
DECLARE
    v_old pgq_head;
BEGIN
    IF head.pause < interval '20 milliseconds' OR current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN;
    END IF;
    v_old := _pgq_shared_head(head.queue, head.due);
    IF head.due - head.pause < v_old.due - v_old.pause + interval '1 second' THEN
        RETURN;
    END IF;

    FOR v_i IN 1..cardinality(head.here) LOOP
        head.here[v_i] := coalesce(head.here[v_i], v_old.here[v_i]);
    END LOOP;
    head.next := head.here;
    DELETE FROM pgq_head AS h
    WHERE h.ctid = ANY (ARRAY(SELECT o.ctid FROM pgq_head AS o WHERE o.queue = head.queue FOR UPDATE SKIP LOCKED));
    INSERT INTO pgq_head VALUES (head.*);
END
$_pgq_share_head$;

COMMENT ON FUNCTION _pgq_share_head(pgq_head) IS
    'Tell other sessions where the live jobs of a queue begin, if the scan took a millisecond or more; at most once a '
    'second, and without waiting for anybody.';


CREATE FUNCTION _pgq_move_heads(
    heads pgq_head[],
    rows tid[],
    filled boolean,
    steps bigint,
    at timestamptz,
    begun_at timestamptz
) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_move_heads$
DECLARE
    v_long boolean := _pgq_is_long_scan(steps, 10 * cardinality(heads));
    v_done_at timestamptz := clock_timestamp();
    v_pause interval := _pgq_rescan_delay(v_done_at - begun_at);
    v_head pgq_head;
    v_from_start boolean;
    v_reached bigint[];
    v_at bigint[];
BEGIN
    FOR v_n IN 1..cardinality(heads) LOOP
        v_head := heads[v_n];
        v_from_start := v_head.due <= begun_at OR v_head.here = '{}';
        IF v_long THEN
            v_reached := _pgq_reached(heads, v_n, rows, filled, at);
            IF v_head.here = '{}' THEN
                v_head.here := array_fill(NULL::bigint, '{20}');
                v_head.next := v_head.here;
            END IF;
            FOR v_i IN 1..19 BY 2 LOOP
                v_at := v_reached[v_i:v_i + 1];
                CONTINUE WHEN v_at[1] IS NULL;
                -- Far behind, because others have claimed meanwhile, one step must do.
                v_head.here[v_i:v_i + 1] := least(v_at, CASE
                    WHEN v_from_start THEN v_head.here[v_i:v_i + 1]
                    WHEN steps > 2000 THEN v_at
                    ELSE v_head.next[v_i:v_i + 1]
                END);
                v_head.next[v_i:v_i + 1] := v_at;
            END LOOP;
            IF v_from_start THEN
                v_head.due := v_done_at + v_pause;
                PERFORM _pgq_share_head(ROW(v_head.queue, v_head.due, v_pause, v_reached, '{}'));
            END IF;
            PERFORM _pgq_keep_head(v_head);
        ELSIF v_head.due <= begun_at THEN
            -- All is well. No need to ask for what others know before ten seconds have passed.
            PERFORM _pgq_keep_head(ROW(v_head.queue, begun_at + interval '10 seconds', v_pause, '{}', '{}'));
        END IF;
    END LOOP;
END
$_pgq_move_heads$;

COMMENT ON FUNCTION _pgq_move_heads(pgq_head[], tid[], boolean, bigint, timestamptz, timestamptz) IS
    'After a claim that found these rows and took so many steps in vain: remember where to begin the next time.';
