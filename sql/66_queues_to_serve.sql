-- Which queues there are to serve, for workers that do not know their queues beforehand.

CREATE FUNCTION _pgq_first_queue(since text) RETURNS text
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_first_queue$
BEGIN
    RETURN least(
        (
            SELECT w.queue COLLATE "C"
            FROM pgq_waiting AS w
            WHERE w.group_id IS NULL AND w.queue COLLATE "C" >= since
            ORDER BY w.queue COLLATE "C"
            LIMIT 1
        ),
        (
            SELECT w.queue COLLATE "C"
            FROM pgq_waiting AS w
            WHERE w.group_id IS NOT NULL AND w.queue COLLATE "C" >= since
            ORDER BY w.queue COLLATE "C"
            LIMIT 1
        )
    );
END
$_pgq_first_queue$;

COMMENT ON FUNCTION _pgq_first_queue(text) IS
    'Return the first queue, in the order of bytes, in which a job waits and that does not come before a text; NULL if '
    'there is none.';


-- The loop steps from queue to queue through the two indexes of waiting jobs: it reads an entry of each queue, however
-- many jobs wait there. Nothing lies between a text and the same text with U+0001 after it. Prefixes that begin with
-- another one are left out, so no queue is found twice.
CREATE FUNCTION pgq_queues_to_serve(prefixes text[] DEFAULT '{""}') RETURNS SETOF text
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_queues_to_serve$
DECLARE
    v_allowed text[] := _pgq_allowed_queues('worker');
    v_prefix text;
    v_queue text;
BEGIN
    IF prefixes IS NULL OR EXISTS (SELECT FROM unnest(prefixes) AS p WHERE p IS NULL) THEN
        RAISE EXCEPTION 'prefixes, or one of them, is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Leave the argument out for all queues.';
    END IF;
    IF cardinality(prefixes) = 0 THEN
        RAISE EXCEPTION 'prefixes is empty'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give at least one prefix, or leave the argument out for all queues.';
    END IF;
    PERFORM _pgq_maintain(pgq_now());

    IF v_allowed IS NOT NULL THEN
        RETURN QUERY
        SELECT a.queue
        FROM unnest(_pgq_distinct(v_allowed)) AS a (queue)
        WHERE EXISTS (SELECT FROM unnest(prefixes) AS p WHERE starts_with(a.queue, p))
          AND _pgq_first_queue(a.queue) = a.queue COLLATE "C"
        ORDER BY a.queue COLLATE "C";
        RETURN;
    END IF;
    FOR v_prefix IN
        SELECT DISTINCT p.prefix COLLATE "C"
        FROM unnest(prefixes) AS p (prefix)
        WHERE NOT EXISTS (
            SELECT FROM unnest(prefixes) AS o (prefix)
            WHERE starts_with(p.prefix, o.prefix) AND octet_length(o.prefix) < octet_length(p.prefix))
        ORDER BY 1
    LOOP
        v_queue := _pgq_first_queue(v_prefix);
        WHILE starts_with(v_queue, v_prefix) LOOP
            RETURN NEXT v_queue;
            v_queue := _pgq_first_queue(v_queue || E'\x01');
        END LOOP;
    END LOOP;
END
$pgq_queues_to_serve$;

COMMENT ON FUNCTION pgq_queues_to_serve(text[]) IS
    'Return the queues in which jobs wait, ripe or not, and which the calling role may use as worker, in the order of '
    'bytes. With prefixes, only queues whose names begin with one of these; a prefix is taken literally. Like '
    'pgq_ripe_in it first rescues jobs as a claim does. A call takes longer with more queues, not with more jobs; but '
    'while a snapshot is held, it reads the index entries of all jobs that were claimed from queues in which none '
    'waits any more. So call it about once a second, less often when it takes long. NULL for prefixes or one of them '
    'raises 22004, an empty array 22023.';
