-- Make a schedule, or replace it.

CREATE FUNCTION _pgq_check_schedule(
    name text,
    catch_up text,
    overlap text,
    jitter interval,
    source text,
    at timestamptz
) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_check_schedule$
BEGIN
    IF name IS NULL THEN
        RAISE EXCEPTION 'name is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Name the schedule; pgq_schedules lists those that there are.';
    END IF;
    IF NOT _pgq_is_name(name) OR NOT _pgq_is_name(source) THEN
        RAISE EXCEPTION 'name or source "%" is not a name',
            left(CASE WHEN _pgq_is_name(name) THEN source ELSE name END, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use 1 to 200 bytes without the character U+001F.';
    END IF;
    IF catch_up NOT IN ('one', 'all', 'none') THEN
        RAISE EXCEPTION 'catch_up "%" is unknown', left(catch_up, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use one, all or none.';
    END IF;
    IF overlap NOT IN ('skip', 'allow') THEN
        RAISE EXCEPTION 'overlap "%" is unknown', left(overlap, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use skip or allow.';
    END IF;
    IF catch_up = 'all' AND overlap = 'skip' THEN
        RAISE EXCEPTION 'catch_up is all, but overlap is skip'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Pass overlap => ''allow'', too: the jobs of slots that are late wait beside each other.';
    END IF;
    IF NOT _pgq_is_in_range(jitter, at, '1 year') THEN
        RAISE EXCEPTION 'jitter % is out of range', jitter
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give an interval from 0 to 1 year.';
    END IF;
END
$_pgq_check_schedule$;

COMMENT ON FUNCTION _pgq_check_schedule(text, text, text, interval, text, timestamptz) IS
    'Check what a schedule has beside its cron expression and its job. Returns nothing. Raises 22004 for a NULL name, '
    '22023 for a bad value.';


-- next_at stays where expression and time zone do: a slot that is due must not be lost to a program that declares its
-- schedules anew at each start.
CREATE FUNCTION pgq_schedule(
    name text,
    cron text,
    kind text,
    args jsonb DEFAULT '{}',
    queue text DEFAULT 'default',
    timezone text DEFAULT 'UTC',
    catch_up text DEFAULT 'one',
    overlap text DEFAULT NULL,
    jitter interval DEFAULT '0',
    priority bigint DEFAULT 5,
    max_retries bigint DEFAULT NULL,
    backoff interval DEFAULT NULL,
    backoff_cap interval DEFAULT NULL,
    group_key text DEFAULT NULL,
    source text DEFAULT NULL
) RETURNS timestamptz
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_schedule$
#variable_conflict use_variable
DECLARE
    v_now timestamptz := pgq_now();
    v_allowed text[] := _pgq_allowed_queues('admin');
    v_problem text[];
    v_next_at timestamptz;
BEGIN
    timezone := coalesce(timezone, 'UTC');
    catch_up := coalesce(catch_up, 'one');
    overlap := coalesce(overlap, CASE catch_up WHEN 'all' THEN 'allow' ELSE 'skip' END);
    jitter := coalesce(jitter, '0');
    priority := coalesce(priority, 5);
    PERFORM _pgq_check_queue(queue);
    PERFORM _pgq_check_schedule(name, catch_up, overlap, jitter, source, v_now);
    v_problem := _pgq_validate(
        kind, args, queue, NULL, NULL, priority, max_retries, backoff, backoff_cap, false, NULL, 'keep', NULL,
        group_key, NULL, v_now);
    IF v_problem IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = v_problem[1], MESSAGE = v_problem[2], HINT = v_problem[3];
    END IF;
    v_next_at := pgq_cron_next(cron, v_now, timezone);
    IF v_next_at IS NULL THEN
        RAISE EXCEPTION 'cron "%" never fires', left(cron, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give an expression that names a day that exists.';
    END IF;

    INSERT INTO pgq_schedule_entry AS e (
        name, cron, timezone, queue, kind, args, priority, max_retries, backoff, backoff_cap, group_key, catch_up,
        overlap, jitter, source, next_at, due_at, set_at
    )
    VALUES (
        name, cron, timezone, queue, kind, args, priority, max_retries, backoff, backoff_cap, group_key, catch_up,
        overlap, jitter, source, v_next_at, v_next_at, v_now
    )
    ON CONFLICT ON CONSTRAINT pgq_schedule_entry_pkey DO UPDATE
    SET cron = excluded.cron, timezone = excluded.timezone, queue = excluded.queue, kind = excluded.kind,
        args = excluded.args, priority = excluded.priority, max_retries = excluded.max_retries,
        backoff = excluded.backoff, backoff_cap = excluded.backoff_cap, group_key = excluded.group_key,
        catch_up = excluded.catch_up, overlap = excluded.overlap, jitter = excluded.jitter, source = excluded.source,
        next_at = CASE WHEN (e.cron, e.timezone) = (excluded.cron, excluded.timezone) THEN e.next_at ELSE v_next_at END,
        due_at = CASE
            WHEN e.paused_at IS NOT NULL THEN 'infinity'
            WHEN (e.cron, e.timezone) = (excluded.cron, excluded.timezone) THEN e.next_at
            ELSE v_next_at
        END,
        set_at = CASE WHEN (e.cron, e.timezone) = (excluded.cron, excluded.timezone) THEN e.set_at ELSE v_now END,
        last_error = NULL, last_error_at = NULL
    WHERE v_allowed IS NULL OR e.queue = ANY (v_allowed)
    RETURNING e.next_at INTO v_next_at;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'role "%" may not replace schedule "%"', _pgq_calling_role(), name
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Choose another name: this one belongs to a queue that the role may not use as admin.';
    END IF;
    -- So that the claim that fires a slot need not lock a table for that.
    IF group_key IS NOT NULL THEN
        PERFORM _pgq_mark(queue);
    END IF;
    IF _pgq_is_soon(v_next_at, v_now) THEN
        PERFORM _pgq_wake(queue, 0);
    END IF;
    RETURN v_next_at;
END
$pgq_schedule$;

COMMENT ON FUNCTION pgq_schedule(
    text, text, text, jsonb, text, text, text, text, interval, bigint, bigint, interval, interval, text, text
) IS
    'Enqueue a job each time a cron expression fires on the clocks of a time zone (see pgq_cron_next); such a time is '
    'a slot. A schedule of this name is replaced. Returns the next slot. The next claim or look of any worker fires '
    'what is due, once for each slot; the context of the job has the name as schedule, and the slot. catch_up says '
    'what becomes of slots that no claim has come to: one enqueues a job for the newest, all one for each, oldest '
    'first, none no job if the newest is more than a minute late. overlap skip leaves a slot out while the last job of '
    'the schedule waits or runs; allow does not; NULL means skip, but allow where catch_up is all. jitter delays each '
    'job by a random time up to that. The other arguments are those of pgq_enqueue. source names what has declared the '
    'schedule, such as a module; NULL means that it was made by hand. Where expression and time zone stay, so does the '
    'next slot, and a schedule that is paused stays so. NULL for name, cron, kind, args or queue raises 22004; any '
    'other NULL means the default. Raises 22023 for a bad value, an expression that never fires or an unknown time '
    'zone, 54000 for args of more than 1 MiB as text, 42501 for a queue that the calling role may not use as admin, or '
    'for the name of a schedule for such a queue.';
