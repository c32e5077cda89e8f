-- What the end of a job does to the jobs that wait for it.
--
-- No call waits here for longer than 100 milliseconds, because the caller has a running job locked. What cannot be done
-- at once is left to _pgq_settle_blocked.

CREATE FUNCTION _pgq_cancelled_with(ids bigint[], among bigint[], max_jobs integer) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_cancelled_with$
BEGIN
    RETURN ARRAY(
        WITH RECURSIVE gone (id) AS (
            SELECT i.id FROM unnest(ids) AS i (id)
            UNION
            SELECT n.job
            FROM gone AS g
            -- OFFSET 0: a look-up in the index for each job, whatever the planner believes.
            CROSS JOIN LATERAL (SELECT o.job FROM pgq_need AS o WHERE o.needs = g.id OFFSET 0) AS n
            WHERE (SELECT b.after_failed FROM pgq_blocked AS b WHERE b.id = n.job) = 'cancel'
              AND (among IS NULL OR n.job IN (SELECT a FROM unnest(among) AS a))
        )
        SELECT g.id FROM gone AS g OFFSET cardinality(ids) LIMIT max_jobs);
END
$_pgq_cancelled_with$;

COMMENT ON FUNCTION _pgq_cancelled_with(bigint[], bigint[], integer) IS
    'Return the blocked jobs that are cancelled when these, which are different jobs, are: directly or not, the '
    'nearest first, up to max_jobs, or all if this is NULL. Those that are not among the given ones, unless these are '
    'NULL, are left out, and what is only behind them.';


-- A job that has been locked is not locked for the first time by another transaction, which would look for what is left
-- before this one has committed. The jobs that wait for these are locked in the order of ids, for 100 milliseconds at
-- most. Those that wait for what is cancelled are locked only if that takes no wait: maintenance finds the others by
-- the notes of what they wait for.
CREATE FUNCTION _pgq_settle_needs(
    ids bigint[],
    outcome text,
    at timestamptz,
    max_jobs integer,
    job bigint DEFAULT NULL
) RETURNS integer
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
    SET lock_timeout = '100ms'
AS $_pgq_settle_needs$
DECLARE
    v_needs tid[];
    v_jobs bigint[];
    v_cancelled bigint[];
    v_further bigint[];
    v_count integer;
BEGIN
    SELECT array_agg(d.ctid), array_agg(DISTINCT d.job)
    INTO v_needs, v_jobs
    FROM (
        SELECT n.ctid, n.job
        FROM pgq_need AS n
        WHERE n.needs = ANY (ids)
          AND (_pgq_settle_needs.job IS NULL OR n.job = _pgq_settle_needs.job)
          AND (outcome <> 'failed'
               OR (SELECT b.after_failed FROM pgq_blocked AS b WHERE b.id = n.job) IS DISTINCT FROM 'wait')
        LIMIT max_jobs
    ) AS d;
    IF v_jobs IS NULL THEN
        RETURN 0;
    END IF;
    v_count := cardinality(v_needs);
    v_jobs := ARRAY(SELECT b.id FROM pgq_blocked AS b WHERE b.id = ANY (v_jobs) ORDER BY b.id FOR UPDATE);

    v_cancelled := ARRAY(
        SELECT b.id
        FROM pgq_blocked AS b
        WHERE b.id = ANY (v_jobs)
          AND CASE outcome WHEN 'failed' THEN b.after_failed = 'cancel' WHEN 'purged' THEN b.after_failed <> 'run' END);
    IF v_cancelled <> '{}' THEN
        IF v_count < max_jobs THEN
            v_further := _pgq_cancelled_with(v_cancelled, NULL, max_jobs - v_count);
            IF v_further <> '{}' THEN
                v_further := ARRAY(
                    SELECT b.id FROM pgq_blocked AS b WHERE b.id = ANY (v_further) ORDER BY b.id FOR UPDATE SKIP LOCKED);
                v_further := _pgq_cancelled_with(v_cancelled, v_further, NULL);
                v_cancelled := v_cancelled || v_further;
                v_count := v_count + cardinality(v_further);
            END IF;
        END IF;
        PERFORM _pgq_cancel_blocked(v_cancelled, ids || v_cancelled, at);
        INSERT INTO pgq_need_ended (id, outcome)
        SELECT c.id, 'failed'
        FROM unnest(v_cancelled) AS c (id)
        WHERE (SELECT true FROM pgq_need AS n WHERE n.needs = c.id LIMIT 1)
        ON CONFLICT ON CONSTRAINT pgq_need_ended_pkey DO NOTHING;
    END IF;

    WITH met AS (
        DELETE FROM pgq_need AS n WHERE n.ctid = ANY (v_needs) AND n.needs = ANY (ids) RETURNING n.job, n.needs
    )
    INSERT INTO pgq_batch (id, queue, jobs, failed, given_up, at)
    SELECT m.job, b.queue, 0, array_agg(m.needs), 0, _pgq_settle_needs.at
    FROM met AS m
    CROSS JOIN LATERAL (SELECT o.queue FROM pgq_batch AS o WHERE o.id = m.job LIMIT 1) AS b
    WHERE outcome = 'failed'
    GROUP BY m.job, b.queue;
    -- In a statement of its own, which sees what those have removed that had the jobs locked before. From the last need
    -- on: jobs mostly end in the order of their ids, and dead entries lie before those that are left.
    PERFORM _pgq_unblock(
        ARRAY(
            SELECT j.id
            FROM unnest(v_jobs) AS j (id)
            WHERE j.id <> ALL (v_cancelled)
              AND (SELECT true FROM pgq_need AS n WHERE n.job = j.id ORDER BY n.needs DESC LIMIT 1) IS NULL),
        at);
    RETURN v_count;
END
$_pgq_settle_needs$;

COMMENT ON FUNCTION _pgq_settle_needs(bigint[], text, timestamptz, integer, bigint) IS
    'Unblock or cancel blocked jobs that wait for these jobs, which have ended in one of the ways of pgq_need_ended: '
    'up to max_jobs of them, or only one; and cancel those that wait for what is cancelled, directly or not, as long '
    'as all together are not more. Returns how many needs were met and further jobs cancelled: fewer than max_jobs if '
    'no job waits for these any more. Raises 55P03 if another transaction has locked one of the jobs that wait for '
    'these, or a twin, for too long.';
