-- What the end of a job does to the jobs that wait for it.
--
-- No call waits here for longer than 100 milliseconds, because the caller has a running job locked. What cannot be done
-- at once is left to _pgq_settle_blocked.

-- A job that has been locked is not locked for the first time by another transaction, which would look for what is left
-- before this one has committed.
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
    v_jobs := ARRAY(SELECT b.id FROM pgq_blocked AS b WHERE b.id = ANY (v_jobs) ORDER BY b.id FOR UPDATE);

    v_cancelled := ARRAY(
        SELECT b.id
        FROM pgq_blocked AS b
        WHERE b.id = ANY (v_jobs)
          AND CASE outcome WHEN 'failed' THEN b.after_failed = 'cancel' WHEN 'purged' THEN b.after_failed <> 'run' END);
    IF v_cancelled <> '{}' THEN
        PERFORM _pgq_cancel_blocked(v_cancelled, ids, at);
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
    RETURN cardinality(v_needs);
END
$_pgq_settle_needs$;

COMMENT ON FUNCTION _pgq_settle_needs(bigint[], text, timestamptz, integer, bigint) IS
    'Unblock or cancel blocked jobs that wait for these jobs, which have ended in one of the ways of pgq_need_ended: '
    'up to max_jobs of them, or only one. Returns how many needs were met: fewer than max_jobs if none is left. Raises '
    '55P03 if another transaction has locked one of the jobs or a twin for too long.';


-- A caller in REPEATABLE READ does not see what other transactions remove meanwhile.
CREATE FUNCTION _pgq_settle_ends(ids bigint[], outcome text) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_settle_ends$
DECLARE
    c_most CONSTANT integer := 1000;
    v_needed bigint[] := ARRAY(
        SELECT e.id
        FROM unnest(ids) AS e (id)
        WHERE (SELECT true FROM pgq_need AS n WHERE n.needs = e.id LIMIT 1));
BEGIN
    IF v_needed = '{}' THEN
        RETURN false;
    END IF;
    IF current_setting('transaction_isolation') = 'read committed' THEN
        BEGIN
            IF _pgq_settle_needs(v_needed, outcome, pgq_now(), c_most) < c_most THEN
                RETURN true;
            END IF;
        EXCEPTION WHEN lock_not_available THEN
            NULL;
        END;
    END IF;
    INSERT INTO pgq_need_ended AS o (id, outcome)
    SELECT e.id, _pgq_settle_ends.outcome
    FROM unnest(v_needed) AS e (id)
    ON CONFLICT ON CONSTRAINT pgq_need_ended_pkey DO UPDATE SET outcome = excluded.outcome;
    RETURN true;
END
$_pgq_settle_ends$;

COMMENT ON FUNCTION _pgq_settle_ends(bigint[], text) IS
    'Unblock or cancel the blocked jobs that wait for these jobs, which this transaction has ended, or leave some to '
    'maintenance. outcome is one of those of pgq_need_ended. Returns whether any waits for them.';


CREATE FUNCTION _pgq_is_needed(id bigint) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_is_needed$
BEGIN
    RETURN EXISTS (SELECT FROM pgq_need AS n WHERE n.needs = _pgq_is_needed.id);
END
$_pgq_is_needed$;

COMMENT ON FUNCTION _pgq_is_needed(bigint) IS 'Return whether a blocked job waits for this one.';


CREATE FUNCTION _pgq_hand_over_needs(id bigint, survivor bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_hand_over_needs$
BEGIN
    WITH moved AS (
        DELETE FROM pgq_need AS n WHERE n.needs = _pgq_hand_over_needs.id RETURNING n.job
    )
    INSERT INTO pgq_need (job, needs)
    SELECT m.job, survivor FROM moved AS m
    ON CONFLICT ON CONSTRAINT pgq_need_pkey DO NOTHING;
END
$_pgq_hand_over_needs$;

COMMENT ON FUNCTION _pgq_hand_over_needs(bigint, bigint) IS
    'Let the blocked jobs that wait for one job wait for another one, into which it has merged. Returns nothing.';
