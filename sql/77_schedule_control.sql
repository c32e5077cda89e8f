-- Pause, resume, run and remove a schedule.

-- A schedule for a queue that the role may not use does not exist for it.
CREATE FUNCTION _pgq_lock_schedule(name text) RETURNS pgq_schedule_entry
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_lock_schedule$
DECLARE
    v_allowed text[] := _pgq_allowed_queues('admin');
    v_entry pgq_schedule_entry;
BEGIN
    SELECT e.* INTO v_entry
    FROM pgq_schedule_entry AS e
    WHERE e.name = _pgq_lock_schedule.name
      AND (v_allowed IS NULL OR e.queue = ANY (v_allowed))
    FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no schedule "%"', left(name, 200)
            USING ERRCODE = 'undefined_object',
                  HINT = 'pgq_schedules lists those that the role may use.';
    END IF;
    RETURN v_entry;
END
$_pgq_lock_schedule$;

COMMENT ON FUNCTION _pgq_lock_schedule(text) IS
    'Return a schedule, locked until the end of the transaction. Raises 42704 if there is none that the calling role '
    'may use as admin.';


CREATE FUNCTION pgq_unschedule(name text) RETURNS boolean
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_unschedule$
DECLARE
    v_allowed text[] := _pgq_allowed_queues('admin');
BEGIN
    DELETE FROM pgq_schedule_entry AS e
    WHERE e.name = pgq_unschedule.name
      AND (v_allowed IS NULL OR e.queue = ANY (v_allowed));
    RETURN FOUND;
END
$pgq_unschedule$;

COMMENT ON FUNCTION pgq_unschedule(text) IS
    'Remove a schedule. Its jobs stay. Returns whether there was one that the calling role may use as admin; false for '
    'NULL.';


CREATE FUNCTION pgq_pause_schedule(name text) RETURNS boolean
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_pause_schedule$
DECLARE
    v_entry pgq_schedule_entry := _pgq_lock_schedule(name);
BEGIN
    UPDATE pgq_schedule_entry AS e
    SET paused_at = pgq_now(), due_at = 'infinity'
    WHERE e.name = v_entry.name AND e.paused_at IS NULL;
    RETURN FOUND;
END
$pgq_pause_schedule$;

COMMENT ON FUNCTION pgq_pause_schedule(text) IS
    'Let no slot of a schedule be fired until pgq_resume_schedule is called. Its jobs stay. Returns false if it was '
    'paused already. Raises 42704 if there is no such schedule that the calling role may use as admin, or for NULL.';


CREATE FUNCTION pgq_resume_schedule(name text) RETURNS timestamptz
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_resume_schedule$
DECLARE
    v_now timestamptz := pgq_now();
    v_entry pgq_schedule_entry := _pgq_lock_schedule(name);
BEGIN
    IF v_entry.paused_at IS NULL THEN
        RETURN v_entry.next_at;
    END IF;
    v_entry.next_at := coalesce(pgq_cron_next(v_entry.cron, v_now, v_entry.timezone), 'infinity');
    UPDATE pgq_schedule_entry AS e
    SET paused_at = NULL, next_at = v_entry.next_at, due_at = v_entry.next_at, set_at = v_now
    WHERE e.name = v_entry.name;
    IF _pgq_is_soon(v_entry.next_at, v_now) THEN
        PERFORM _pgq_wake(v_entry.queue, 0);
    END IF;
    RETURN v_entry.next_at;
END
$pgq_resume_schedule$;

COMMENT ON FUNCTION pgq_resume_schedule(text) IS
    'Let a schedule that is paused go on. The slots of the pause are left out, whatever catch_up is. Returns the next '
    'slot; that of a schedule that is not paused stays as it is. Raises 42704 if there is no such schedule that the '
    'calling role may use as admin, or for NULL.';


CREATE FUNCTION pgq_run_schedule(name text) RETURNS bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_run_schedule$
DECLARE
    v_now timestamptz := pgq_now();
    v_entry pgq_schedule_entry := _pgq_lock_schedule(name);
BEGIN
    v_entry.jitter := '0';
    v_entry.last_job := _pgq_enqueue_scheduled(v_entry, v_now, v_now);
    UPDATE pgq_schedule_entry AS e
    SET last_at = v_now, last_job = v_entry.last_job
    WHERE e.name = v_entry.name;
    RETURN v_entry.last_job;
END
$pgq_run_schedule$;

COMMENT ON FUNCTION pgq_run_schedule(text) IS
    'Enqueue a job of a schedule now, also while it is paused or its last job runs. Its slots stay as they are. '
    'Returns the id of the job; its context has the present as the slot. Raises 42704 if there is no such schedule '
    'that the calling role may use as admin, or for NULL.';
