-- What the ways of a job to its end, and into a twin, call for the jobs that wait for it.

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


CREATE FUNCTION _pgq_settle_purged(failed bigint[], not_done bigint[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_settle_purged$
BEGIN
    IF failed IS NOT NULL THEN
        PERFORM _pgq_delete_beside(failed);
    END IF;
    -- Nothing can retry these any more.
    IF not_done IS NOT NULL AND _pgq_has_needs() THEN
        PERFORM _pgq_settle_ends(not_done, 'purged');
    END IF;
END
$_pgq_settle_purged$;

COMMENT ON FUNCTION _pgq_settle_purged(bigint[], bigint[]) IS
    'Settle what belongs to purged jobs: delete what stands beside those that have errors or something saved, and tell '
    'the jobs that wait for those that were not done. NULL: there are none. Returns nothing.';
