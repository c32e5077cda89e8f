-- What maintenance does for blocked jobs.
--
-- It goes on with what the end of a job has left to do (58_after_notes.sql). And it looks for needs that are over: a
-- job may end in a transaction that does not see the blocked one yet, which was enqueued in a transaction that still
-- saw it alive. To lock each prerequisite at the enqueue would close that gap, but the worker of a running one would
-- have to wait.

-- One statement for the jobs that are in none of the small tables, because one that moves meanwhile must be seen on one
-- side or the other.
CREATE FUNCTION _pgq_settle_over(ids bigint[], at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
    SET lock_timeout = '100ms'
AS $_pgq_settle_over$
DECLARE
    c_most CONSTANT integer := 500;
    c_many CONSTANT bigint := 500;
    v_failed bigint[];
    v_merged bigint;
BEGIN
    ids := ARRAY(
        SELECT i.id
        FROM unnest(ids) AS i (id)
        WHERE (SELECT true FROM pgq_waiting AS w WHERE w.id = i.id) IS NULL
          AND (SELECT true FROM pgq_blocked AS b WHERE b.id = i.id) IS NULL
          AND (SELECT true FROM pgq_running AS r WHERE r.id = i.id) IS NULL);
    IF ids = '{}' THEN
        RETURN;
    END IF;
    WITH running AS MATERIALIZED (
        SELECT r.id FROM _pgq_running AS r WHERE r.id = ANY (ids)
    )
    SELECT array_agg(i.id), array_agg(i.id) FILTER (WHERE e.outcome IN ('dead', 'cancelled'))
    INTO ids, v_failed
    FROM unnest(ids) AS i (id)
    LEFT JOIN pgq_ended AS e ON e.id = i.id
    WHERE (SELECT true FROM pgq_waiting AS w WHERE w.id = i.id) IS NULL
      AND (SELECT true FROM pgq_blocked AS b WHERE b.id = i.id) IS NULL
      AND i.id NOT IN (SELECT r.id FROM running AS r);
    IF v_failed IS NOT NULL THEN
        ids := ARRAY(SELECT i.id FROM unnest(ids) AS i (id) WHERE i.id <> ALL (v_failed));
        -- Jobs that wait until a dead one is retried may be many, and stay for weeks. Where the first ones all do, the
        -- others are read in one look in fifty.
        v_failed := ARRAY(
            SELECT f.id
            FROM unnest(v_failed) AS f (id)
            WHERE random() < 0.02
               OR (
                   SELECT count(*) < c_many OR bool_or(first.after_failed IS DISTINCT FROM 'wait')
                   FROM (
                       SELECT (SELECT b.after_failed FROM pgq_blocked AS b WHERE b.id = n.job) AS after_failed
                       FROM pgq_need AS n
                       WHERE n.needs = f.id
                       LIMIT c_many
                   ) AS first));
        PERFORM _pgq_settle_needs(v_failed, 'failed', at, c_most);
    END IF;
    -- A job that merged while one that is to run after it was enqueued: the twin takes its place.
    FOR v_merged IN SELECT m.id FROM pgq_merged AS m WHERE m.id = ANY (ids) LOOP
        PERFORM _pgq_hand_over_needs(v_merged, _pgq_survivor(v_merged));
        ids := array_remove(ids, v_merged);
    END LOOP;
    IF ids <> '{}' THEN
        PERFORM _pgq_settle_needs(ids, 'done', at, c_most);
    END IF;
END
$_pgq_settle_over$;

COMMENT ON FUNCTION _pgq_settle_over(bigint[], timestamptz) IS
    'Unblock or cancel blocked jobs that wait for those of these jobs that have ended, and let those that wait for one '
    'that has merged wait for its twin. Returns nothing. Raises what _pgq_settle_needs does.';


CREATE FUNCTION _pgq_needs_setting() RETURNS text
    LANGUAGE sql
    STABLE
    RETURN 'pgq.needs_' || 'pgq_need'::regclass::oid;

COMMENT ON FUNCTION _pgq_needs_setting() IS
    'Return the name of the setting in which a session keeps how far it has looked at needs.';


-- A forged setting makes a session look elsewhere, and no other.
CREATE FUNCTION _pgq_look_at_needs() RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_look_at_needs$
DECLARE
    c_most CONSTANT integer := 200;
    v_text text := current_setting(_pgq_needs_setting(), true);
    v_from bigint := CASE WHEN v_text ~ '^[0-9]{1,18}$' THEN v_text::bigint
                          ELSE floor(random() * (SELECT max(n.needs) FROM pgq_need AS n)) END;
    v_ids bigint[];
BEGIN
    v_ids := ARRAY(
        WITH RECURSIVE found (id, n) AS (
            SELECT (SELECT min(f.needs) FROM pgq_need AS f WHERE f.needs > v_from), 1
            UNION ALL
            SELECT (SELECT min(f.needs) FROM pgq_need AS f WHERE f.needs > found.id), found.n + 1
            FROM found
            WHERE found.n < c_most AND found.id IS NOT NULL
        )
        SELECT found.id FROM found WHERE found.id IS NOT NULL);
    IF cardinality(v_ids) = c_most THEN
        v_from := v_ids[c_most];
    ELSIF v_from > 0 THEN
        -- The end: the next look begins at the first one.
        v_from := 0;
    END IF;
    PERFORM set_config(_pgq_needs_setting(), v_from::text, false);
    RETURN v_ids;
END
$_pgq_look_at_needs$;

COMMENT ON FUNCTION _pgq_look_at_needs() IS
    'Return the next 200 jobs, in the order of ids, that blocked jobs wait for; after the last one, from the first on.';


-- A table lock that other roles cannot take. The error ends a subtransaction and with it the lock.
-- No rollback undoes the reset, but one may bring back the needs that this transaction has removed: where it has written
-- to the table, a later call resets.
CREATE FUNCTION _pgq_reset_needed() RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_reset_needed$
BEGIN
    BEGIN
        LOCK TABLE pgq_need IN SHARE MODE NOWAIT;
        IF NOT EXISTS (SELECT FROM pgq_need) AND NOT EXISTS (SELECT FROM pgq_need_ended) AND NOT EXISTS (
            SELECT
            FROM pg_locks AS l
            WHERE l.locktype = 'relation'
              AND l.relation = 'pgq_need'::regclass
              AND l.pid = pg_backend_pid()
              AND l.mode = 'RowExclusiveLock'
        ) THEN
            PERFORM setval('pgq_needed', 1, false);
        END IF;
        RAISE SQLSTATE 'PGQ00';
    EXCEPTION WHEN SQLSTATE 'PGQ00' OR lock_not_available THEN
        RETURN;
    END;
END
$_pgq_reset_needed$;

COMMENT ON FUNCTION _pgq_reset_needed() IS
    'Let _pgq_has_needs return false again if no job is blocked, and none is being enqueued so. Returns nothing.';


-- What claims do once a second in each session, while jobs are blocked. A thousand jobs take a tenth of a second.
CREATE FUNCTION _pgq_settle_blocked(at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_settle_blocked$
BEGIN
    IF NOT _pgq_has_needs() OR current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM pgq_need) AND NOT EXISTS (SELECT FROM pgq_need_ended) THEN
        PERFORM _pgq_reset_needed();
        RETURN;
    END IF;
    BEGIN
        PERFORM _pgq_settle_notes(at, 1000);
    EXCEPTION WHEN lock_not_available THEN
        PERFORM _pgq_settle_singly(at);
    END;
    BEGIN
        PERFORM _pgq_settle_over(_pgq_look_at_needs(), at);
    EXCEPTION WHEN lock_not_available THEN
        NULL;  -- a later look finds them again
    END;
END
$_pgq_settle_blocked$;

COMMENT ON FUNCTION _pgq_settle_blocked(timestamptz) IS
    'Unblock or cancel blocked jobs whose prerequisites are over, up to some hundreds. Waits for a lock for 100 ms at '
    'most, four times. Returns nothing.';
