-- Purge: delete jobs that have ended, before claims do (64_retention.sql).

CREATE FUNCTION pgq_purge(
    older_than interval DEFAULT '30 days',
    outcome text DEFAULT NULL,
    queue text DEFAULT NULL,
    max_jobs bigint DEFAULT 10000,
    kind text DEFAULT NULL
) RETURNS bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_purge$
DECLARE
    v_now timestamptz := pgq_now();
    v_allowed text[] := _pgq_allowed_queues('admin');
    v_purged bigint;
    v_failed bigint[];
    v_not_done bigint[];
BEGIN
    IF older_than IS NULL OR max_jobs IS NULL THEN
        RAISE EXCEPTION 'older_than or max_jobs is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Leave the argument out for the default.';
    END IF;
    IF older_than NOT BETWEEN interval '0' AND interval '100 years' OR max_jobs < 0
       OR outcome NOT IN ('dead', 'cancelled', 'done') THEN
        RAISE EXCEPTION 'cannot purge % jobs older than % with outcome "%"', max_jobs, older_than, left(outcome, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give an older_than from 0 to 100 years, a max_jobs of 0 or more, and as outcome dead, '
                         'cancelled, done or NULL.';
    END IF;
    IF queue <> ALL (v_allowed) THEN
        PERFORM _pgq_raise_denied(queue, 'admin');
    END IF;

    WITH old AS (
        SELECT e.id
        FROM pgq_ended AS e
        WHERE e.ended_at <= v_now - older_than
          AND (pgq_purge.outcome IS NULL OR e.outcome = pgq_purge.outcome)
          AND (pgq_purge.queue IS NULL OR e.queue = pgq_purge.queue)
          AND (pgq_purge.kind IS NULL OR e.kind = pgq_purge.kind)
          AND (v_allowed IS NULL OR e.queue = ANY (v_allowed))
        ORDER BY e.ended_at
        LIMIT max_jobs
        FOR UPDATE SKIP LOCKED
    ), purged AS (
        DELETE FROM pgq_ended AS e USING old WHERE e.id = old.id RETURNING e.id, e.newest_error, e.outcome
    )
    SELECT count(*), array_agg(p.id) FILTER (WHERE p.newest_error IS NOT NULL),
           array_agg(p.id) FILTER (WHERE p.outcome <> 'done')
    INTO v_purged, v_failed, v_not_done
    FROM purged AS p;
    PERFORM _pgq_settle_purged(v_failed, v_not_done);
    RETURN v_purged;
END
$pgq_purge$;

COMMENT ON FUNCTION pgq_purge(interval, text, text, bigint, text) IS
    'Delete jobs that ended longer ago than older_than, the oldest first, at most max_jobs in one call. Returns how '
    'many. NULL for outcome or kind means any, NULL for queue every queue that the calling role may use; NULL for '
    'older_than or max_jobs raises 22004. Raises 22023 for a bad value, 42501 for a queue that the calling role may '
    'not use.';
