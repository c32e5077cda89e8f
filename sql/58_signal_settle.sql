-- What claims do on the side for signals.

-- Claims call it, so it waits for no lock.
CREATE FUNCTION _pgq_settle_signals() RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_settle_signals$
DECLARE
    c_step CONSTANT integer := 200;
    v_start bigint := 0;
    v_signal record;
    v_key integer;
    v_survivor bigint;
BEGIN
    IF (pg_relation_size('pgq_job_signal') = 0 AND pg_relation_size('pgq_merged') = 0)
       OR current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RETURN;
    END IF;
    -- From a random one on, if there are more than one call looks at.
    IF (SELECT count(*) FROM (SELECT FROM pgq_job_signal AS s WHERE s.unseen LIMIT c_step + 1) AS u) > c_step THEN
        SELECT s.first + floor(random() * (s.last - s.first + 1))::bigint INTO v_start
        FROM (SELECT min(u.id) AS first, max(u.id) AS last FROM pgq_job_signal AS u WHERE u.unseen) AS s;
    END IF;
    FOR v_signal IN
        SELECT s.id, s.name, s.payload, s.sent_at
        FROM pgq_job_signal AS s
        WHERE s.unseen
          AND s.id >= v_start
        ORDER BY s.id
        LIMIT c_step
        FOR UPDATE SKIP LOCKED
    LOOP
        v_survivor := _pgq_survivor(v_signal.id);
        -- While a transaction is open that lets the job wait, its row cannot be seen.
        v_key := (v_survivor & 1023)::integer;
        CONTINUE WHEN NOT pg_try_advisory_lock(_pgq_wait_class(), v_key);
        PERFORM pg_advisory_unlock(_pgq_wait_class(), v_key);
        IF v_survivor <> v_signal.id THEN
            DELETE FROM pgq_job_signal AS s WHERE s.id = v_signal.id AND s.name = v_signal.name;
            INSERT INTO pgq_job_signal (id, name, payload, sent_at, unseen)
            VALUES (v_survivor, v_signal.name, v_signal.payload, v_signal.sent_at, true)
            ON CONFLICT DO NOTHING;
        END IF;
        PERFORM _pgq_wake_waiting(v_survivor, v_signal.name);
        -- Another transaction may have the job locked that waits.
        UPDATE pgq_job_signal AS s
        SET unseen = false
        WHERE s.id = v_survivor
          AND s.name = v_signal.name
          AND NOT EXISTS (
              SELECT
              FROM pgq_waiting AS w
              JOIN pgq_signal_wait AS t ON t.id = w.id AND t.until = w.ripe_at
              WHERE w.id = v_survivor
                AND w.ripe_at > pgq_now()
                AND t.name = v_signal.name
          );
    END LOOP;
END
$_pgq_settle_signals$;

COMMENT ON FUNCTION _pgq_settle_signals() IS
    'Make jobs ripe that wait for signals which were sent while they began to wait, and hand over signals of jobs that '
    'have merged meanwhile, up to 200. Returns nothing.';


-- A job that is done may leave signals behind: completing it does not look for them, as it does not look for requests
-- to cancel. It reads from a random row on.
CREATE FUNCTION _pgq_delete_lost_signals() RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_delete_lost_signals$
DECLARE
    c_step CONSTANT integer := 50;
    v_signals bigint[];
    v_merged bigint[];
    v_jobs bigint[];
BEGIN
    IF pg_relation_size('pgq_job_signal') > 0 THEN
        v_signals := ARRAY(
            SELECT s.id
            FROM pgq_job_signal AS s
            WHERE s.id >= (
                SELECT min(i.id) + floor(random() * (max(i.id) - min(i.id) - c_step + 1))::bigint
                FROM pgq_job_signal AS i)
            ORDER BY s.id
            LIMIT c_step
        );
    END IF;
    IF pg_relation_size('pgq_merged') > 0 THEN
        v_merged := ARRAY(
            SELECT m.id
            FROM pgq_merged AS m
            WHERE m.id >= (
                SELECT min(i.id) + floor(random() * (max(i.id) - min(i.id) - c_step + 1))::bigint FROM pgq_merged AS i)
            ORDER BY m.id
            LIMIT c_step
        );
    END IF;
    v_jobs := v_signals || ARRAY(SELECT m.twin FROM pgq_merged AS m WHERE m.id = ANY (v_merged));
    IF v_jobs IS NULL OR v_jobs = '{}' THEN
        RETURN;
    END IF;

    -- In one statement, so that a job that is just being claimed or put back is seen on one side or the other.
    WITH gone AS MATERIALIZED (
        SELECT j.id
        FROM unnest(v_jobs) AS j (id)
        WHERE NOT EXISTS (SELECT FROM pgq_waiting AS w WHERE w.id = j.id)
          AND NOT EXISTS (SELECT FROM pgq_blocked AS b WHERE b.id = j.id)
          AND NOT EXISTS (SELECT FROM pgq_ended AS e WHERE e.id = j.id)
          AND NOT EXISTS (SELECT FROM pgq_merged AS m WHERE m.id = j.id)
          AND j.id NOT IN (SELECT r.id FROM _pgq_running AS r WHERE r.id = ANY (v_jobs))
    ), signals AS (
        DELETE FROM pgq_job_signal AS s
        WHERE s.ctid = ANY (ARRAY(
            SELECT o.ctid
            FROM pgq_job_signal AS o
            WHERE o.id IN (SELECT g.id FROM gone AS g)
              AND NOT o.unseen
            FOR UPDATE SKIP LOCKED))
    )
    DELETE FROM pgq_merged AS m
    WHERE m.ctid = ANY (ARRAY(
        SELECT o.ctid
        FROM pgq_merged AS o
        WHERE o.id = ANY (v_merged)
          AND o.twin IN (SELECT g.id FROM gone AS g)
        FOR UPDATE SKIP LOCKED));
END
$_pgq_delete_lost_signals$;

COMMENT ON FUNCTION _pgq_delete_lost_signals() IS
    'Delete signals of jobs that are gone, and what is noted of merges with them, of 50 each. Returns nothing.';
