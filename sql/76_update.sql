-- Change a waiting job, as an operator.

CREATE FUNCTION pgq_update(
    id bigint,
    args jsonb DEFAULT NULL,
    ripe_at timestamptz DEFAULT NULL,
    priority bigint DEFAULT NULL,
    group_key text DEFAULT NULL
) RETURNS timestamptz
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET lock_timeout = '500ms'
AS $pgq_update$
DECLARE
    v_now timestamptz := pgq_now();
    v_allowed text[] := _pgq_allowed_queues('admin');
    v_problem text[];
    v_job pgq_waiting;
    v_state text;
BEGIN
    v_problem := _pgq_validate(
        'kind', coalesce(args, '{}'), 'queue', ripe_at, NULL, priority, NULL, NULL, NULL, true, NULL, 'keep', NULL,
        nullif(group_key, ''), NULL, v_now);
    IF v_problem IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = v_problem[1], MESSAGE = v_problem[2], HINT = v_problem[3];
    END IF;

    -- Repeat when the job has been unlocked, or has moved from one table to another between two statements.
    LOOP
        SELECT o.* INTO v_job
        FROM pgq_waiting AS o
        WHERE o.id = pgq_update.id
          AND (v_allowed IS NULL OR o.queue = ANY (v_allowed))
        FOR NO KEY UPDATE SKIP LOCKED;
        EXIT WHEN FOUND;
        v_state := _pgq_job_state(id);
        IF v_state <> 'waiting' THEN
            RAISE EXCEPTION 'job % is % and cannot be updated', id, v_state
                USING ERRCODE = 'PGQ03',
                      HINT = 'Update only a job that waits; retry a dead or cancelled one first.';
        END IF;
        PERFORM _pgq_await_waiting(id);
    END LOOP;
    -- A transaction that has enqueued a duplicate relies on the args.
    IF args IS NOT NULL THEN
        PERFORM _pgq_await_waiting(id);
    END IF;

    -- In another lane, or with another time, a job is ripe now at the earliest: the head of the lane may have passed an
    -- earlier place.
    IF num_nonnulls(ripe_at, priority, group_key) > 0 THEN
        v_job.ripe_at := greatest(coalesce(ripe_at, v_job.ripe_at), v_now);
    END IF;
    v_job.group_key := nullif(coalesce(group_key, v_job.group_key), '');
    IF v_job.group_key IS NOT NULL THEN
        -- Without the lock of producers in an ordered queue, which is for ids that are not known yet: a claim that does
        -- not see the job in its new group has come before the update.
        PERFORM _pgq_mark(v_job.queue);
    END IF;
    v_job.group_id := _pgq_place(v_job.queue, v_job.group_key, v_job.ripe_at <= v_now);
    BEGIN
        UPDATE pgq_waiting AS w
        SET args = coalesce(pgq_update.args, w.args),
            ripe_at = v_job.ripe_at,
            priority = coalesce(pgq_update.priority, w.priority),
            group_key = v_job.group_key,
            group_id = v_job.group_id,
            signature = CASE
                WHEN w.dedup THEN
                    _pgq_signature(w.queue, w.kind, coalesce(pgq_update.args, w.args), w.dedup_key)
            END
        WHERE w.id = pgq_update.id;
    EXCEPTION
        WHEN unique_violation THEN
            RAISE EXCEPTION 'another job is waiting already with the signature that job % would get', id
                USING ERRCODE = 'PGQ04',
                      HINT = 'Cancel one of the two jobs instead.';
        WHEN lock_not_available THEN
            RAISE EXCEPTION 'another transaction has locked job %, or enqueues its twin', id
                USING ERRCODE = 'lock_not_available',
                      HINT = 'Try again when that transaction has ended.';
    END;
    IF _pgq_is_soon(v_job.ripe_at, v_now) THEN
        PERFORM _pgq_wake(v_job.queue, (v_job.ripe_at <= v_now)::integer);
    END IF;
    RETURN v_job.ripe_at;
END
$pgq_update$;

COMMENT ON FUNCTION pgq_update(bigint, jsonb, timestamptz, bigint, text) IS
    'Change a waiting job: its args, ripe_at, priority or group. Returns its ripe_at. A job that gets another ripe_at, '
    'priority or group is ripe now at the earliest, and then comes after the jobs that have been ripe; with other args '
    'alone it keeps its place. Args may change its signature, and with it what is a duplicate of it; a window (see '
    'pgq_enqueue) stays that of the args before. NULL for an argument leaves it as it is, and empty text for group_key '
    'takes the job out of its group. In an ordered queue its place in the new group is that of its id. Waits half a '
    'second for another transaction that has locked the job, or enqueues its twin. Raises PGQ01 if there is no such '
    'job, if it is in a queue that the calling role may not use, or for NULL; PGQ03 for a job that runs or has ended; '
    'PGQ04 if another job is waiting with the signature that it would get; 55P03 if that transaction has not ended; '
    '22023 or 22008 for a bad value, 54000 for args of more than 1 MiB as text.';
