-- What an operator asks of a busy database: bounded readings, in which no count walks over all jobs.
--
-- A table of up to 1,000 pages is counted as a whole. Of a larger one, the jobs of each queue are counted up to 10,000
-- through the index of the claims; those of a longer queue are estimated from a sample of 500 pages. Both cost the same
-- however many jobs there are, and the sample also however many dead rows a snapshot keeps.

CREATE TYPE _pgq_tally AS (
    queue     text,
    kind      text,
    state     text,
    jobs      bigint,
    ripe      bigint,
    oldest    timestamptz,
    estimated boolean
);

COMMENT ON TYPE _pgq_tally IS 'Number of jobs of a queue and kind in a state.';
COMMENT ON COLUMN _pgq_tally.queue IS 'Queue of the jobs.';
COMMENT ON COLUMN _pgq_tally.kind IS 'Kind of the jobs.';
COMMENT ON COLUMN _pgq_tally.state IS 'State of the jobs, as in pgq_jobs.';
COMMENT ON COLUMN _pgq_tally.jobs IS 'Number of the jobs.';
COMMENT ON COLUMN _pgq_tally.ripe IS 'Number of those that are ripe; 0 unless they wait.';
COMMENT ON COLUMN _pgq_tally.oldest IS 'Least ripe_at of those that are ripe; NULL: none is.';
COMMENT ON COLUMN _pgq_tally.estimated IS 'Whether the numbers are estimates.';


CREATE FUNCTION _pgq_seen_queues() RETURNS text[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_seen_queues$
DECLARE
    v_admin text[] := _pgq_allowed_queues('admin');
    v_reader text[] := _pgq_allowed_queues('reader');
BEGIN
    RETURN CASE WHEN v_admin IS NOT NULL AND v_reader IS NOT NULL THEN v_admin || v_reader END;
END
$_pgq_seen_queues$;

COMMENT ON FUNCTION _pgq_seen_queues() IS
    'Return the queues that the calling role may use as admin or reader; NULL means all.';


-- TABLESAMPLE takes each page with the same probability. REPEATABLE takes the same pages each time, so that a number
-- changes from one reading to the next only where jobs have changed.
CREATE FUNCTION _pgq_sample_percent(table_name regclass) RETURNS real
    LANGUAGE sql
    VOLATILE
    RETURN CASE
        WHEN pg_relation_size(table_name) > 1000 * current_setting('block_size')::bigint
            THEN 100 * 500.0 * current_setting('block_size')::bigint / pg_relation_size(table_name)
    END;

COMMENT ON FUNCTION _pgq_sample_percent(regclass) IS
    'Return the percentage of the pages of a table that a sample is to read; NULL: the table is so small that it is '
    'read as a whole.';


CREATE FUNCTION _pgq_queue_between(since text, before text) RETURNS text
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_queue_between$
BEGIN
    RETURN least(
        (
            SELECT w.queue COLLATE "C"
            FROM pgq_waiting AS w
            WHERE w.group_id IS NULL AND w.queue COLLATE "C" >= since AND w.queue COLLATE "C" < before
            ORDER BY w.queue COLLATE "C"
            LIMIT 1
        ),
        (
            SELECT w.queue COLLATE "C"
            FROM pgq_waiting AS w
            WHERE w.group_id IS NOT NULL AND w.queue COLLATE "C" >= since AND w.queue COLLATE "C" < before
            ORDER BY w.queue COLLATE "C"
            LIMIT 1
        )
    );
END
$_pgq_queue_between$;

COMMENT ON FUNCTION _pgq_queue_between(text, text) IS
    'Return the first queue, in the order of bytes, in which a job waits, that does not come before one text and comes '
    'before the other; NULL if there is none.';


-- The entries of a queue that was worked off may all be dead, and finding the first live one then takes as long as
-- there are many. Such a queue has a head, or a worker. So the queues that are known are left out of the search, which
-- only looks for queues between them.
CREATE FUNCTION _pgq_queues_to_count(seen text[]) RETURNS SETOF text
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_queues_to_count$
DECLARE
    c_most CONSTANT integer := 1000;
    v_since text := '';
    v_known text;
    v_queue text;
    v_found integer := 0;
BEGIN
    IF seen IS NOT NULL THEN
        RETURN QUERY SELECT u.queue FROM unnest(_pgq_distinct(seen)) AS u (queue) LIMIT c_most;
        RETURN;
    END IF;
    -- Names that begin with U+001F are not those of queues; U+0020 follows it.
    FOR v_known IN
        SELECT DISTINCT k.queue COLLATE "C"
        FROM (
            SELECT h.queue FROM pgq_head AS h WHERE h.queue >= ' '
            UNION ALL
            SELECT s.queue FROM pgq_queue_setting AS s WHERE s.queue <> ''
            UNION ALL
            SELECT q.queue COLLATE "C"
            FROM pgq_worker_session AS w
            CROSS JOIN LATERAL unnest(w.queues) AS q (queue)
        ) AS k (queue)
        UNION ALL
        SELECT NULL
        ORDER BY 1 NULLS LAST
    LOOP
        LOOP
            v_queue := CASE
                           WHEN v_known IS NULL THEN _pgq_first_queue(v_since)
                           ELSE _pgq_queue_between(v_since, v_known)
                       END;
            EXIT WHEN v_queue IS NULL;
            RETURN NEXT v_queue;
            v_found := v_found + 1;
            IF v_found >= c_most THEN
                RETURN;
            END IF;
            v_since := v_queue || E'\x01';
        END LOOP;
        IF v_known IS NOT NULL THEN
            RETURN NEXT v_known;
            v_found := v_found + 1;
            v_since := v_known || E'\x01';
        END IF;
    END LOOP;
END
$_pgq_queues_to_count$;

COMMENT ON FUNCTION _pgq_queues_to_count(text[]) IS
    'Return up to 1,000 queues in which jobs may wait, all of them if there are no more, in the order of bytes: those '
    'given, or all if the argument is NULL.';
