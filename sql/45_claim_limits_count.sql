-- How many jobs of a queue and of its groups may be taken: what runs is counted in one pass.

-- All rows of pgq_running that the limits of a queue count have a group_id, 0 for a job without a group.
CREATE INDEX pgq_running_counted ON pgq_running (queue COLLATE "C", token) INCLUDE (group_id)
    WHERE group_id IS NOT NULL;


-- Jobs that ran when their queue got its first limit, and whose rows were locked then, have no group_id.
CREATE TABLE pgq_uncounted (
    queue    text COLLATE "C" NOT NULL,
    id       bigint           NOT NULL,
    token    bigint           NOT NULL,
    group_id bigint           NOT NULL
);

CREATE INDEX pgq_uncounted_queue ON pgq_uncounted (queue);

-- The table has no key. Without an identity its rows could not be deleted once a publication has the table.
ALTER TABLE pgq_uncounted REPLICA IDENTITY FULL;

COMMENT ON TABLE pgq_uncounted IS
    'Jobs that were running, and locked, when their queue got its first limit: they are counted here while they run.';
COMMENT ON COLUMN pgq_uncounted.queue IS 'The queue.';
COMMENT ON COLUMN pgq_uncounted.id IS 'The job.';
COMMENT ON COLUMN pgq_uncounted.token IS 'Its token: after another claim the job is counted in pgq_running.';
COMMENT ON COLUMN pgq_uncounted.group_id IS 'Number of its group; 0: it has none.';


-- The count begins at the oldest token of the last one, which was made under the lock of the queue. Tokens are drawn
-- under that lock, so they grow from claim to claim. From the start of its range, each claim would walk over the
-- entries of all jobs that have ended while a snapshot is held. The place is in a table and not in a session setting,
-- which any role can forge: a wrong one would break the limit for all.
CREATE FUNCTION _pgq_caps(
    queue text,
    setting pgq_queue_setting,
    since bigint,
    at timestamptz,
    OUT running bigint,
    OUT oldest bigint,
    OUT capped bigint[],
    OUT free bigint[]
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_caps$
DECLARE
    v_cap bigint := _pgq_cap(setting);
    v_counts boolean := num_nonnulls(setting.max_running, v_cap) > 0;
BEGIN
    IF NOT v_counts
       AND NOT EXISTS (SELECT FROM pgq_paused AS p WHERE p.queue = _pgq_caps.queue AND p.group_id <> 0 AND p.until > at)
    THEN
        running := 0;
        capped := '{}';
        free := '{}';
        RETURN;
    END IF;
    SELECT coalesce(sum(g.jobs), 0), CASE WHEN v_counts THEN coalesce(min(g.oldest), 9223372036854775807) END,
           coalesce(array_agg(g.group_id) FILTER (WHERE g.is_capped), '{}'),
           coalesce(array_agg(CASE WHEN g.is_paused THEN 0 ELSE greatest(v_cap - g.jobs, 0) END)
                    FILTER (WHERE g.is_capped), '{}')
    INTO running, oldest, capped, free
    FROM (
        SELECT c.group_id, sum(c.jobs)::bigint AS jobs, min(c.oldest) AS oldest, bool_or(c.jobs = 0) AS is_paused,
               c.group_id <> 0 AND (v_cap IS NOT NULL OR bool_or(c.jobs = 0)) AS is_capped
        FROM (
            SELECT r.group_id, count(*) AS jobs, min(r.token) AS oldest
            FROM pgq_running AS r
            WHERE v_counts
              AND r.queue = _pgq_caps.queue COLLATE "C"
              AND r.token >= coalesce(since, 0)
              AND r.group_id IS NOT NULL
            GROUP BY r.group_id
            UNION ALL
            SELECT u.group_id, 1, NULL
            FROM pgq_uncounted AS u
            CROSS JOIN LATERAL (
                SELECT FROM _pgq_running AS r WHERE r.id = u.id AND r.token = u.token AND r.group_id IS NULL OFFSET 0
            ) AS running
            WHERE v_counts
              AND u.queue = _pgq_caps.queue
            UNION ALL
            SELECT p.group_id, 0, NULL
            FROM pgq_paused AS p
            WHERE p.queue = _pgq_caps.queue AND p.group_id <> 0 AND p.until > at
        ) AS c
        GROUP BY c.group_id
        ORDER BY c.group_id
    ) AS g;
END
$_pgq_caps$;

COMMENT ON FUNCTION _pgq_caps(text, pgq_queue_setting, bigint, timestamptz) IS
    'Count the running jobs of a queue that its limits count, from the token "since" on. Returns how many there are; '
    'the oldest token of them, the greatest number if there is none, NULL if the queue has no such limit; the numbers '
    'of the groups, in order, of which fewer may be taken than the settings say, because some run or the group is '
    'paused; and how many of each of these are free.';


-- width_bucket finds the group by halving.
CREATE FUNCTION _pgq_free(group_id bigint, cap bigint, capped bigint[], free bigint[]) RETURNS bigint
    LANGUAGE sql
    IMMUTABLE
    RETURN CASE
        WHEN capped[width_bucket(group_id, capped)] = group_id THEN free[width_bucket(group_id, capped)]
        ELSE cap
    END;

COMMENT ON FUNCTION _pgq_free(bigint, bigint, bigint[], bigint[]) IS
    'Return how many jobs of a group may be taken (see _pgq_caps), where cap is the number of those of most groups; '
    'NULL: any number.';
