-- Pause a queue or a group, and resume it.

CREATE FUNCTION _pgq_check_group(group_key text) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_check_group$
BEGIN
    IF NOT _pgq_is_name(group_key) THEN
        RAISE EXCEPTION 'group_key "%" is not a name', left(group_key, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use 1 to 200 bytes without the character U+001F, or NULL for the whole queue.';
    END IF;
END
$_pgq_check_group$;

COMMENT ON FUNCTION _pgq_check_group(text) IS
    'Check the group that an operator has named. Returns nothing. Raises 22023 for a bad name.';


CREATE FUNCTION _pgq_pause_group(queue text, group_key text, until timestamptz, at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_pause_group$
BEGIN
    INSERT INTO pgq_paused AS p (queue, group_id, group_key, until, paused_at)
    VALUES (queue, coalesce(_pgq_group_id(group_key), 0), group_key, until, at)
    ON CONFLICT ON CONSTRAINT pgq_paused_pkey DO UPDATE
    SET until = greatest(p.until, excluded.until), paused_at = excluded.paused_at;
    PERFORM _pgq_mark(queue);
END
$_pgq_pause_group$;

COMMENT ON FUNCTION _pgq_pause_group(text, text, timestamptz, timestamptz) IS
    'Pause a group of a queue until a time, or the queue if group_key is NULL. Returns nothing.';


CREATE FUNCTION pgq_pause(queue text, until timestamptz DEFAULT NULL, group_key text DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_pause$
DECLARE
    v_now timestamptz := pgq_now();
BEGIN
    PERFORM _pgq_check_queue(queue);
    PERFORM _pgq_check_group(group_key);
    IF until NOT BETWEEN v_now - interval '100 years' AND v_now + interval '100 years' THEN
        RAISE EXCEPTION 'until % is out of range', until
            USING ERRCODE = 'datetime_field_overflow',
                  HINT = 'Give a time within a hundred years of now, or NULL to pause until pgq_resume is called.';
    END IF;

    DELETE FROM pgq_paused AS p
    WHERE p.ctid = ANY (ARRAY(
        SELECT o.ctid
        FROM pgq_paused AS o
        WHERE o.queue = pgq_pause.queue AND o.until <= v_now
        LIMIT 100
        FOR UPDATE SKIP LOCKED));
    PERFORM _pgq_pause_group(queue, group_key, coalesce(until, 'infinity'), v_now);
END
$pgq_pause$;

COMMENT ON FUNCTION pgq_pause(text, timestamptz, text) IS
    'Keep jobs of a queue from being claimed until a time. Returns nothing. Running jobs go on, and jobs are enqueued '
    'as before. Of two pauses the one that ends later counts; pgq_resume ends both. With group_key only the jobs of '
    'this group are kept, as after a reply of a service that this group is to wait. NULL for until means until '
    'pgq_resume is called, NULL for group_key the whole queue, and NULL for queue raises 22004. Raises 22023 for a bad '
    'queue or group_key, 22008 for a time out of range, 42501 for a queue that the calling role may not use.';


CREATE FUNCTION pgq_resume(queue text, group_key text DEFAULT NULL) RETURNS boolean
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_resume$
DECLARE
    v_until timestamptz;
BEGIN
    PERFORM _pgq_check_queue(queue);
    PERFORM _pgq_check_group(group_key);
    DELETE FROM pgq_paused AS p
    WHERE p.queue = pgq_resume.queue
      AND p.group_id = coalesce(_pgq_group_id(pgq_resume.group_key), 0)
    RETURNING p.until INTO v_until;
    IF v_until > pgq_now() THEN
        -- As many sessions as may have slept for jobs that were kept back.
        PERFORM _pgq_wake(queue, 1000);
        RETURN true;
    END IF;
    RETURN false;
END
$pgq_resume$;

COMMENT ON FUNCTION pgq_resume(text, text) IS
    'End the pause of a queue, or with group_key that of this group, and wake workers. Returns whether it was paused. '
    'A group with a pause of its own stays paused when its queue is resumed. NULL for group_key means the whole queue, '
    'and NULL for queue raises 22004. Raises 22023 for a bad queue or group_key, 42501 for a queue that the calling '
    'role may not use.';
