-- What a worker does with a job that it neither completes nor fails: longer, later, or back.

CREATE FUNCTION pgq_extend(id bigint, token bigint, lease interval DEFAULT '5 minutes') RETURNS timestamptz
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_extend$
DECLARE
    v_until timestamptz := _pgq_lease_end(pgq_now(), lease);
    v_allowed text[] := _pgq_allowed_queues('worker');
    v_row tid;
BEGIN
    SELECT r.ctid INTO v_row
    FROM pgq_running AS r
    WHERE r.id = pgq_extend.id
      AND r.token = pgq_extend.token
      AND (v_allowed IS NULL OR r.queue = ANY (v_allowed))
    FOR NO KEY UPDATE SKIP LOCKED;

    IF FOUND THEN
        UPDATE pgq_running AS r
        SET lease_until = greatest(r.lease_until, v_until)
        WHERE r.ctid = v_row
        RETURNING r.lease_until INTO v_until;
    ELSE
        -- Locked by pgq_hold, which is as good as a lease, or not there.
        SELECT r.lease_until INTO v_until
        FROM pgq_running AS r
        WHERE r.id = pgq_extend.id
          AND r.token = pgq_extend.token
          AND (v_allowed IS NULL OR r.queue = ANY (v_allowed));

        IF NOT FOUND THEN
            PERFORM _pgq_raise_lease_lost(id, token);
        END IF;
    END IF;
    RETURN v_until;
END
$pgq_extend$;

COMMENT ON FUNCTION pgq_extend(bigint, bigint, interval) IS
    'Let the lease on a running job end no sooner than lease from now; answers when it ends. A job that is locked (see '
    'pgq_hold) is safe without, and left as it is. Raises PGQ02 when the lease is already lost, and for a NULL id or '
    'token; 22004 or 22023 for a bad lease.';


CREATE FUNCTION pgq_snooze(
    id bigint,
    token bigint,
    until timestamptz DEFAULT NULL,
    delay interval DEFAULT NULL
) RETURNS text
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_snooze$
DECLARE
    v_now timestamptz := pgq_now();
    v_until timestamptz;
    v_job pgq_running;
BEGIN
    IF (until IS NULL) = (delay IS NULL) THEN
        RAISE EXCEPTION '% given', CASE WHEN until IS NULL THEN 'neither until nor delay is' ELSE 'both until and delay are' END
            USING ERRCODE = CASE WHEN until IS NULL THEN '22004' ELSE '22023' END,
                  HINT = 'Give the time of the next attempt or how long to wait for it, or use pgq_release to have it at once.';
    END IF;
    IF NOT _pgq_is_in_range(delay, v_now, '100 years') THEN
        RAISE EXCEPTION 'delay % is out of range', delay
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give an interval from 0 to 100 years.';
    END IF;
    IF until NOT BETWEEN v_now - interval '100 years' AND v_now + interval '100 years' THEN
        RAISE EXCEPTION 'until % is out of range', until
            USING ERRCODE = 'datetime_field_overflow',
                  HINT = 'Give a time within a hundred years of now.';
    END IF;
    v_until := coalesce(until, v_now + delay);

    v_job := _pgq_take(id, token);
    RETURN CASE WHEN _pgq_requeue(v_job, v_until, v_job.attempt - 1, v_job.errors) THEN 'snoozed' ELSE 'merged' END;
END
$pgq_snooze$;

COMMENT ON FUNCTION pgq_snooze(bigint, bigint, timestamptz, interval) IS
    'Put a running job back until a later time, or for so long; the attempt does not count. Answers snoozed, or merged '
    'when a twin is waiting already. Raises PGQ02 when the lease is lost, and for a NULL id or token; 22004, 22008 or '
    '22023 for a bad time or delay, and unless exactly one of the two is given.';


CREATE FUNCTION pgq_release(id bigint, token bigint) RETURNS text
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_release$
DECLARE
    v_job pgq_running;
BEGIN
    v_job := _pgq_take(id, token);
    RETURN CASE WHEN _pgq_requeue(v_job, v_job.ripe_at, v_job.attempt - 1, v_job.errors) THEN 'released' ELSE 'merged' END;
END
$pgq_release$;

COMMENT ON FUNCTION pgq_release(bigint, bigint) IS
    'Put a running job back at its old place, ripe at once; the attempt does not count. Answers released, or merged '
    'when a twin is waiting already. Raises PGQ02 when the lease is lost, and for NULL.';
