-- What it is to fire the slots of a schedule. Claims do it, as they rescue jobs.

-- The slots up to now are counted one by one, up to 100. The newest of more is found by bisection.
CREATE FUNCTION _pgq_late_slots(
    entry pgq_schedule_entry,
    at timestamptz,
    OUT slots timestamptz[],
    OUT next_at timestamptz
)
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_late_slots$
DECLARE
    v_late timestamptz;
    v_until timestamptz := at;
    v_middle timestamptz;
BEGIN
    slots := ARRAY[entry.next_at];
    LOOP
        next_at := coalesce(pgq_cron_next(entry.cron, slots[cardinality(slots)], entry.timezone), 'infinity');
        IF next_at > at OR (entry.catch_up = 'all' AND cardinality(slots) = 100) THEN
            RETURN;
        END IF;
        EXIT WHEN cardinality(slots) = 100;
        slots := slots || next_at;
    END LOOP;
    WHILE next_at <= at LOOP
        v_late := next_at;
        v_middle := v_late + (v_until - v_late) / 2;
        next_at := pgq_cron_next(entry.cron, v_middle, entry.timezone);
        IF next_at <= at THEN
            v_late := next_at;
        ELSE
            v_until := v_middle;
        END IF;
        next_at := coalesce(pgq_cron_next(entry.cron, v_late, entry.timezone), 'infinity');
    END LOOP;
    slots[100] := v_late;
END
$_pgq_late_slots$;

COMMENT ON FUNCTION _pgq_late_slots(pgq_schedule_entry, timestamptz) IS
    'Return the slots of a schedule from next_at up to a time, and the slot after them. Of more than 100 slots, these '
    'are the first 99 and the newest; with catch_up all they are the first 100.';


-- ripe_at is never before the present, where a head may have passed. Not a duplicate of any job, which would take the
-- place of that of the slot; the lock of the entry keeps a slot from being fired twice.
CREATE FUNCTION _pgq_enqueue_scheduled(entry pgq_schedule_entry, slot timestamptz, at timestamptz) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_enqueue_scheduled$
DECLARE
    v_ripe_at timestamptz := greatest(at, slot + entry.jitter * random());
    v_group_id bigint;
    v_id bigint;
BEGIN
    IF entry.group_key IS NOT NULL THEN
        v_group_id := _pgq_enter_group(entry.queue, entry.group_key, v_ripe_at <= at);
    END IF;
    INSERT INTO pgq_waiting (
        id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
        enqueued_at, context, losses, newest_error, group_key, group_id, signature
    )
    VALUES (
        nextval('pgq_job_id'), entry.queue, entry.kind, entry.args, entry.priority, v_ripe_at, 0, entry.max_retries,
        entry.backoff, entry.backoff_cap, false, NULL, at,
        jsonb_build_object(
            'schedule', entry.name, 'slot', to_char(slot AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')),
        NULL, NULL, entry.group_key, v_group_id, NULL
    )
    RETURNING id INTO v_id;
    IF _pgq_is_soon(v_ripe_at, at) THEN
        PERFORM _pgq_wake(entry.queue, (v_ripe_at <= at)::integer);
    END IF;
    RETURN v_id;
END
$_pgq_enqueue_scheduled$;

COMMENT ON FUNCTION _pgq_enqueue_scheduled(pgq_schedule_entry, timestamptz, timestamptz) IS
    'Enqueue the job of a schedule for a slot, with the name and the slot in its context, and wake a worker. Returns '
    'its id.';


CREATE FUNCTION _pgq_fire(entry pgq_schedule_entry, at timestamptz) RETURNS timestamptz
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_fire$
DECLARE
    v_late record := _pgq_late_slots(entry, at);
    v_slot timestamptz := v_late.slots[cardinality(v_late.slots)];
    v_fired timestamptz[] := CASE
        WHEN entry.catch_up = 'all' THEN v_late.slots
        -- A session that claims comes to a slot within about a second.
        WHEN entry.catch_up = 'none' AND v_slot < at - interval '1 minute' THEN '{}'
        ELSE ARRAY[v_slot]
    END;
BEGIN
    -- Not by the view _pgq_running, which would read the args of all batches.
    IF entry.overlap = 'skip' AND (
        EXISTS (SELECT FROM pgq_waiting AS w WHERE w.id = entry.last_job)
        OR EXISTS (SELECT FROM pgq_running AS r WHERE r.id = entry.last_job)
        OR EXISTS (
            SELECT FROM pgq_running_batch AS b WHERE entry.last_job = ANY (b.ids) AND entry.last_job <> ALL (b.gone))
    ) THEN
        v_fired := '{}';
    END IF;
    FOREACH v_slot IN ARRAY v_fired LOOP
        entry.last_job := _pgq_enqueue_scheduled(entry, v_slot, at);
        entry.last_at := v_slot;
    END LOOP;
    UPDATE pgq_schedule_entry AS e
    SET next_at = v_late.next_at, due_at = v_late.next_at, set_at = at, last_at = entry.last_at,
        last_job = entry.last_job, last_error = NULL, last_error_at = NULL,
        missed = e.missed + cardinality(v_late.slots) - cardinality(v_fired)
    WHERE e.name = entry.name;
    RETURN v_late.next_at;
END
$_pgq_fire$;

COMMENT ON FUNCTION _pgq_fire(pgq_schedule_entry, timestamptz) IS
    'Enqueue the jobs of a schedule for its slots up to a time, as catch_up and overlap say, and move next_at past '
    'them. The caller has the row locked. Returns next_at, which is not past the time where catch_up is all and there '
    'are more than 100 slots.';


-- A clock that was wrong for a while would otherwise leave next_at years ahead. After a smaller step back, slots that
-- have been fired stay so, and the next one comes when the clock reaches it.
CREATE FUNCTION _pgq_mend_schedules(at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_mend_schedules$
DECLARE
    v_entry pgq_schedule_entry;
BEGIN
    FOR v_entry IN
        SELECT e.*
        FROM pgq_schedule_entry AS e
        WHERE e.set_at > at + interval '24 hours' AND e.paused_at IS NULL
        FOR UPDATE SKIP LOCKED
    LOOP
        UPDATE pgq_schedule_entry AS e
        SET next_at = n.next_at, due_at = n.next_at, set_at = at
        FROM (SELECT coalesce(pgq_cron_next(v_entry.cron, at, v_entry.timezone), 'infinity') AS next_at) AS n
        WHERE e.name = v_entry.name;
    END LOOP;
END
$_pgq_mend_schedules$;

COMMENT ON FUNCTION _pgq_mend_schedules(timestamptz) IS
    'Let the schedules go on from a time whose clock was more than a day ahead of it when they were last set. Returns '
    'nothing.';
