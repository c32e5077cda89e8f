-- How many jobs of a group may be taken, and how a claim notes what has started.

CREATE FUNCTION _pgq_room_of(
    group_id bigint,
    setting pgq_queue_setting,
    max_jobs bigint,
    cap bigint,
    capped bigint[],
    free bigint[],
    at timestamptz
) RETURNS bigint
    LANGUAGE sql
    VOLATILE
    RETURN CASE group_id
        WHEN 0 THEN max_jobs
        -- least() passes over NULL, which stands for any number.
        ELSE least(
            max_jobs,
            _pgq_free(group_id, cap, capped, free),
            CASE WHEN setting.rate_per_group IS NOT NULL THEN
                _pgq_may_start(_pgq_all_spent(setting, group_id, at), setting.rate_per_group, setting, at)
            END)
    END;

COMMENT ON FUNCTION _pgq_room_of(bigint, pgq_queue_setting, bigint, bigint, bigint[], bigint[], timestamptz) IS
    'Return how many jobs of a group of a queue may be taken at a time, max_jobs at most, given how many of each group '
    'run (see _pgq_caps and _pgq_free). Jobs without a group, group 0, have no limits of their own.';


-- The rows of groups whose time has passed say nothing. Some of them are removed with each claim.
CREATE FUNCTION _pgq_spend(setting pgq_queue_setting, rows tid[], at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_spend$
BEGIN
    WITH started AS (
        SELECT key.group_id, count(*) AS jobs
        FROM (SELECT w.queue, w.group_id FROM pgq_waiting AS w WHERE w.ctid = ANY (rows) OFFSET 0) AS job
        CROSS JOIN LATERAL (
            SELECT 0::bigint WHERE setting.rate IS NOT NULL
            UNION ALL
            SELECT job.group_id WHERE setting.rate_per_group IS NOT NULL AND job.group_id IS NOT NULL
        ) AS key (group_id)
        WHERE job.queue = setting.queue COLLATE "C"
        GROUP BY key.group_id
    ), spent AS (
        SELECT s.group_id, s.jobs, known.ctid AS place, known.all_spent,
               CASE s.group_id WHEN 0 THEN setting.rate ELSE setting.rate_per_group END AS rate
        FROM started AS s
        LEFT JOIN LATERAL (
            SELECT r.ctid, r.all_spent
            FROM pgq_rate AS r
            WHERE r.queue = setting.queue AND r.group_id = s.group_id
            ORDER BY r.all_spent DESC
            LIMIT 1
        ) AS known ON true
    ), passed AS (
        SELECT next.ctid
        FROM (
            SELECT r.ctid, r.all_spent
            FROM pgq_rate AS r
            WHERE r.queue = setting.queue AND r.group_id > (SELECT max(s.group_id) FROM spent AS s)
            ORDER BY r.group_id
            LIMIT 20
        ) AS next
        WHERE next.all_spent <= at
    ), replaced AS (
        DELETE FROM pgq_rate AS r
        WHERE r.ctid = ANY (ARRAY(SELECT s.place FROM spent AS s UNION ALL SELECT p.ctid FROM passed AS p))
    )
    INSERT INTO pgq_rate (queue, group_id, all_spent)
    SELECT setting.queue, s.group_id,
           greatest(_pgq_known_spent(s.all_spent, s.rate, setting, at), at)
           + _pgq_span(s.jobs, s.rate, setting.per)
    FROM spent AS s;
END
$_pgq_spend$;

COMMENT ON FUNCTION _pgq_spend(pgq_queue_setting, tid[], timestamptz) IS
    'Count the jobs that a claim starts at a time, whose rows in pgq_waiting it has locked, in the rates of their '
    'queue and its groups; those of other queues are passed over. This transaction has the lock of the queue. Returns '
    'nothing.';
