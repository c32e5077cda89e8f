-- How maintenance goes on with what the end of a job has left to do for the jobs that wait for it.

CREATE FUNCTION _pgq_settle_notes(at timestamptz, max_jobs integer) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_settle_notes$
DECLARE
    v_left integer := max_jobs;
    v_note record;
    v_ids bigint[];
    v_count integer;
BEGIN
    WHILE v_left > 0 LOOP
        SELECT o.outcome, array_agg(o.id) AS ids INTO v_note
        FROM (SELECT n.id, n.outcome FROM pgq_need_ended AS n LIMIT 100 FOR UPDATE SKIP LOCKED) AS o
        GROUP BY o.outcome
        LIMIT 1;
        EXIT WHEN NOT FOUND;
        -- A dead job that was retried since is alive.
        v_ids := v_note.ids;
        IF v_note.outcome = 'failed' THEN
            v_ids := ARRAY(
                SELECT e.id FROM pgq_ended AS e WHERE e.id = ANY (v_ids) AND e.outcome IN ('dead', 'cancelled'));
        END IF;
        v_count := _pgq_settle_needs(v_ids, v_note.outcome, at, v_left);
        IF v_count < v_left THEN
            DELETE FROM pgq_need_ended AS n WHERE n.id = ANY (v_note.ids);
        END IF;
        -- A call for one job takes as long as several jobs of a long list.
        v_left := v_left - greatest(v_count, 2);
    END LOOP;
END
$_pgq_settle_notes$;

COMMENT ON FUNCTION _pgq_settle_notes(timestamptz, integer) IS
    'Unblock or cancel blocked jobs that wait for jobs in pgq_need_ended, about max_jobs of them. Returns nothing. '
    'Raises what _pgq_settle_needs does.';


-- One by one, because one of them is locked. Each takes a subtransaction.
CREATE FUNCTION _pgq_settle_singly(at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_settle_singly$
DECLARE
    v_need record;
    v_locked integer := 0;
BEGIN
    FOR v_need IN
        SELECT n.job, n.needs, o.outcome
        FROM (
            SELECT e.id, e.outcome
            FROM pgq_need_ended AS e
            WHERE e.outcome <> 'failed'
               OR (SELECT d.outcome FROM pgq_ended AS d WHERE d.id = e.id) IN ('dead', 'cancelled')
            ORDER BY random()
            LIMIT 20
        ) AS o
        CROSS JOIN LATERAL (
            SELECT i.job, i.needs FROM pgq_need AS i WHERE i.needs = o.id ORDER BY random() LIMIT 20
        ) AS n
        ORDER BY random()
        LIMIT 20
    LOOP
        BEGIN
            PERFORM _pgq_settle_needs(ARRAY[v_need.needs], v_need.outcome, at, 1, v_need.job);
        EXCEPTION WHEN lock_not_available THEN
            v_locked := v_locked + 1;
        END;
        EXIT WHEN v_locked = 2;
    END LOOP;
END
$_pgq_settle_singly$;

COMMENT ON FUNCTION _pgq_settle_singly(timestamptz) IS
    'Unblock or cancel up to 20 blocked jobs that wait for jobs in pgq_need_ended, in any order; it ends at the second '
    'one that is locked. Returns nothing.';
