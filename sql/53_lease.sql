-- Keep a running job for longer, or put it back without a failure: extend, snooze, release.

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
        RETURN v_until;
    END IF;

    SELECT b.ctid INTO v_row
    FROM pgq_running_batch AS b
    WHERE b.token = pgq_extend.token
      AND EXISTS (
          SELECT
          FROM unnest(b.ids, b.queues) AS j (id, queue)
          WHERE j.id = pgq_extend.id
            AND j.id <> ALL (b.gone)
            AND (v_allowed IS NULL OR j.queue = ANY (v_allowed))
      )
    FOR NO KEY UPDATE SKIP LOCKED;
    IF FOUND THEN
        UPDATE pgq_running_batch AS b
        SET lease_until = greatest(b.lease_until, v_until)
        WHERE b.ctid = v_row
        RETURNING b.lease_until INTO v_until;
        RETURN v_until;
    END IF;

    -- Either the row is locked by pgq_hold, which protects the job as a lease does, or it is not there.
    SELECT r.lease_until INTO v_until
    FROM _pgq_running AS r
    WHERE r.id = pgq_extend.id
      AND r.token = pgq_extend.token
      AND (v_allowed IS NULL OR r.queue = ANY (v_allowed));
    IF NOT FOUND THEN
        PERFORM _pgq_raise_lease_lost(id, token);
    END IF;
    RETURN v_until;
END
$pgq_extend$;

COMMENT ON FUNCTION pgq_extend(bigint, bigint, interval) IS
    'Extend the lease on a running job to the interval lease from now; a lease that ends later stays as it is. Returns '
    'when the lease ends. A job that is locked (see pgq_hold) needs no lease and is left as it is. The jobs of a batch '
    'that pgq_claim_batch has packed have their lease in common: it is extended for all of them. NULL for lease raises '
    '22004. Raises PGQ02 if the job is not held under this token, or for a NULL id or token; 22023 for a lease that is '
    'zero, negative or longer than a year.';


CREATE FUNCTION pgq_snooze(
    id bigint,
    token bigint,
    until timestamptz DEFAULT NULL,
    delay interval DEFAULT NULL,
    whole_group boolean DEFAULT false
) RETURNS text
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_snooze$
DECLARE
    v_now timestamptz := pgq_now();
    v_until timestamptz;
    v_job pgq_running;
    v_outcome text;
BEGIN
    IF (until IS NULL) = (delay IS NULL) THEN
        RAISE EXCEPTION '% given',
              CASE WHEN until IS NULL THEN 'neither until nor delay is' ELSE 'both until and delay are' END
            USING ERRCODE = CASE WHEN until IS NULL THEN '22004' ELSE '22023' END,
                  HINT = 'Give the time of the next attempt or the delay before it, or use pgq_release for no delay.';
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
    v_outcome := _pgq_requeue(v_job, v_until, v_job.attempt - 1);
    IF whole_group AND v_job.group_key IS NOT NULL AND v_until > v_now THEN
        PERFORM _pgq_pause_group(v_job.queue, v_job.group_key, v_until, v_now);
    END IF;
    RETURN CASE v_outcome WHEN 'waiting' THEN 'snoozed' ELSE v_outcome END;
END
$pgq_snooze$;

COMMENT ON FUNCTION pgq_snooze(bigint, bigint, timestamptz, interval, boolean) IS
    'Put a running job back until a time, or for a delay; the attempt does not count. Returns snoozed, or merged if a '
    'twin is waiting: the twin then waits as long, at least, and takes over earlier attempts and errors. Returns '
    'cancelled if pgq_cancel has requested that: the job has ended. With whole_group no other job of its group is '
    'claimed before that time either, as after the reply of a service that this customer is to wait; pgq_resume ends '
    'that. Exactly one of until and delay must be given; NULL for both raises 22004, and NULL for whole_group means '
    'false. Raises PGQ02 if the job is not held under this token, or for a NULL id or token; 22008 for '
    'a time out of range; 22023 for a delay out of range, or if both are given.';


CREATE FUNCTION pgq_release(id bigint, token bigint) RETURNS text
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_release$
DECLARE
    v_job pgq_running;
    v_outcome text;
BEGIN
    v_job := _pgq_take(id, token);
    v_outcome := _pgq_requeue(v_job, v_job.ripe_at, v_job.attempt - 1);
    RETURN CASE v_outcome WHEN 'waiting' THEN 'released' ELSE v_outcome END;
END
$pgq_release$;

COMMENT ON FUNCTION pgq_release(bigint, bigint) IS
    'Put a running job back at its old place, ripe at once; the attempt does not count. Returns released, or merged if '
    'a twin is waiting: the twin keeps its time, and takes over earlier attempts and errors. Returns cancelled if '
    'pgq_cancel has requested that: the job has ended. Raises PGQ02 if the job is not held under this token, or for a '
    'NULL id or token.';
