-- Configure a queue.

-- The style of intervals is that of the result.
CREATE FUNCTION pgq_configure(queue text, settings jsonb DEFAULT '{}') RETURNS jsonb
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET intervalstyle = 'postgres'
AS $pgq_configure$
DECLARE
    v_before pgq_queue_setting;
    v_setting pgq_queue_setting;
    v_set jsonb;
BEGIN
    PERFORM _pgq_check_queue(queue, true);
    PERFORM _pgq_check_settings(settings);

    IF settings = '{}' THEN
        SELECT s.* INTO v_setting FROM pgq_queue_setting AS s WHERE s.queue = pgq_configure.queue;
        RETURN coalesce(jsonb_strip_nulls(to_jsonb(v_setting) - 'queue'), '{}');
    END IF;

    -- One session at a time: two that wait for claims, and have changed a row before, would wait for each other.
    LOCK TABLE pgq_queue_setting IN SHARE UPDATE EXCLUSIVE MODE;
    INSERT INTO pgq_queue_setting (queue) VALUES (queue)
    ON CONFLICT ON CONSTRAINT pgq_queue_setting_pkey DO NOTHING;
    SELECT s.* INTO v_before FROM pgq_queue_setting AS s WHERE s.queue = pgq_configure.queue FOR UPDATE;
    v_setting := jsonb_populate_record(v_before, settings);
    v_set := jsonb_strip_nulls(to_jsonb(v_setting) - 'queue');
    PERFORM _pgq_check_setting(v_setting);
    IF v_set = '{}' THEN
        DELETE FROM pgq_queue_setting AS s WHERE s.queue = pgq_configure.queue;
    ELSE
        UPDATE pgq_queue_setting AS s
        SET max_running = v_setting.max_running, max_per_group = v_setting.max_per_group,
            ordered = v_setting.ordered, on_dead = v_setting.on_dead, rate = v_setting.rate, per = v_setting.per,
            burst = v_setting.burst, rate_per_group = v_setting.rate_per_group, max_retries = v_setting.max_retries,
            backoff = v_setting.backoff, backoff_cap = v_setting.backoff_cap, lease = v_setting.lease,
            keep_done = v_setting.keep_done, keep_dead = v_setting.keep_dead,
            keep_cancelled = v_setting.keep_cancelled, sensitive = v_setting.sensitive
        WHERE s.queue = pgq_configure.queue;
    END IF;
    -- Those of all queues are read by the maintenance only, which does not look at the marks.
    IF queue <> '' THEN
        PERFORM _pgq_mark(queue);
    END IF;
    IF (v_setting.rate, v_setting.rate_per_group, v_setting.per, v_setting.burst)
       IS DISTINCT FROM (v_before.rate, v_before.rate_per_group, v_before.per, v_before.burst) THEN
        PERFORM _pgq_change_rate(v_setting, pgq_now());
    END IF;
    IF _pgq_has_limits(v_setting)
       AND (NOT _pgq_has_limits(v_before) OR (v_setting.ordered AND v_before.ordered IS NOT TRUE)) THEN
        PERFORM _pgq_begin_limits(queue);
    ELSIF _pgq_has_limits(v_before) AND NOT _pgq_has_limits(v_setting) THEN
        DELETE FROM pgq_turn AS t WHERE t.queue = pgq_configure.queue;
    END IF;
    IF v_setting.ordered AND v_before.ordered IS NOT TRUE THEN
        -- In an ordered queue, jobs that are not ripe keep the later ones of their group waiting.
        PERFORM _pgq_leave_room(queue, 9223372036854775807, 'infinity');
    END IF;
    RETURN v_set;
END
$pgq_configure$;

COMMENT ON FUNCTION pgq_configure(text, jsonb) IS
    'Set what a queue does otherwise than others. Returns all settings of the queue that are set now, as a JSON '
    'object. settings is an object: a key that is given is set, one that is JSON null is reset, all others stay as '
    'they are; {} only returns the settings. max_running and max_per_group limit how many jobs of the queue, and of '
    'each group, run at a time. ordered true runs the jobs of each group one after the other; on_dead, continue or '
    'stop, says whether a dead one keeps the others back. rate and rate_per_group limit how many jobs start in each '
    'interval per, and burst how many at once. max_retries, backoff and backoff_cap are those of jobs that are '
    'enqueued without, and count from the claim on; lease is that of claims without. keep_done, keep_dead and '
    'keep_cancelled say how long a job is kept after it has ended, before claims delete it; the empty name of a queue '
    'stands for all queues that do not set these themselves, and only these can be set for it, by a role that may use '
    'all queues. Without, a dead or cancelled job is kept for 30 days, and one that is done for 7 days. With '
    'keep_done of its own a queue also keeps jobs that are done without a result, if they are claimed from then on. '
    'sensitive true tells programs that show jobs, such as those of pgq, to leave out what a reader may not see of '
    'the queue, unless an admin asks; pgq_jobs and pgq_schedules show all of it to an admin. Numbers are whole, from '
    '1 on, max_retries from 0 on. Intervals are strings. NULL for queue or settings raises 22004. Raises 22023 for a '
    'bad queue, an unknown key, a value of another JSON type or out of range, and settings that do not belong '
    'together; 22007, 22008, 22003 or 22P02 for a value that PostgreSQL cannot read as an interval or whole number; '
    '42501 for a queue that the calling role may not use; 55P03 if a queue gets its first limit, or becomes ordered, '
    'and other transactions that have claimed jobs stay open for about ten seconds.';
