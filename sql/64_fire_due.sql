-- Which schedules a claim fires, and when a session looks for them.

-- Each firing leaves a dead entry in the index, which stays while a snapshot is held. So most looks begin a few seconds
-- before the last one of the session, and one in a minute begins at the start.
--
-- A subtransaction for each entry keeps one that fails from the others; with those of the rescue they are fewer than
-- the 64 that a backend can show to others without a look-up on disk.
CREATE FUNCTION _pgq_fire_due(at timestamptz, since timestamptz) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
    SET lock_timeout = '100ms'
AS $_pgq_fire_due$
DECLARE
    v_entry pgq_schedule_entry;
    v_entries pgq_schedule_entry[] := ARRAY(
        SELECT e
        FROM pgq_schedule_entry AS e
        WHERE e.due_at > since AND e.due_at <= at
        ORDER BY e.due_at
        LIMIT 10
        FOR UPDATE SKIP LOCKED
    );
    v_is_more boolean := cardinality(v_entries) = 10;
BEGIN
    FOREACH v_entry IN ARRAY v_entries LOOP
        BEGIN
            v_is_more := _pgq_fire(v_entry, at) <= at OR v_is_more;
        EXCEPTION WHEN OTHERS THEN
            UPDATE pgq_schedule_entry AS e
            SET due_at = at + interval '1 minute', set_at = at, last_error = left(SQLERRM, 1000), last_error_at = at
            WHERE e.name = v_entry.name;
        END;
    END LOOP;
    RETURN v_is_more;
END
$_pgq_fire_due$;

COMMENT ON FUNCTION _pgq_fire_due(timestamptz, timestamptz) IS
    'Fire up to ten schedules that are due after one time and up to another, and that no other session fires. One that '
    'fails keeps its error and is tried again a minute later. Returns whether there may be more to fire.';


-- The setting has three times: when to look next, from where on, and when to look from the start. Any role can set it,
-- so it puts off the looks of this session for a second at most. REPEATABLE READ and SERIALIZABLE would fail on an
-- entry that another session has fired since the snapshot was taken.
CREATE FUNCTION _pgq_fire_schedules(at timestamptz) RETURNS timestamptz
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_fire_schedules$
DECLARE
    c_setting CONSTANT text := 'pgq.schedules_' || 'pgq_schedule_entry'::regclass::oid;
    v_setting text := current_setting(c_setting, true);
    v_now bigint := _pgq_microseconds(at);
    v_kept bigint[];
    v_from bigint := 0;
    v_full bigint := v_now + 60000000;
    v_since timestamptz := '-infinity';
    v_next timestamptz;
    v_is_more boolean;
BEGIN
    IF v_setting ~ '^[0-9]{1,17} [0-9]{1,17} [0-9]{1,17}$' THEN
        v_kept := string_to_array(v_setting, ' ');
        IF v_kept[1] BETWEEN v_now + 1 AND v_now + 1000000 THEN
            RETURN timestamptz 'epoch' + v_kept[1] * interval '1 microsecond';
        END IF;
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN at + interval '1 second';
    END IF;

    IF v_kept[2] BETWEEN 1 AND v_now AND v_kept[3] BETWEEN v_now + 1 AND v_now + 60000000 THEN
        v_from := v_kept[2];
        v_full := v_kept[3];
        v_since := timestamptz 'epoch' + v_from * interval '1 microsecond';
    ELSE
        PERFORM _pgq_mend_schedules(at);
    END IF;
    v_is_more := _pgq_fire_due(at, v_since);
    IF v_is_more THEN
        v_next := at;
    ELSE
        v_from := greatest(v_now - 5000000, 0);
        v_next := least(
            at + interval '1 second',
            (SELECT e.due_at FROM pgq_schedule_entry AS e WHERE e.due_at > at ORDER BY e.due_at LIMIT 1));
    END IF;
    PERFORM set_config(c_setting, format('%s %s %s', _pgq_microseconds(v_next), v_from, v_full), false);
    RETURN CASE WHEN v_is_more THEN '-infinity' ELSE v_next END;
END
$_pgq_fire_schedules$;

COMMENT ON FUNCTION _pgq_fire_schedules(timestamptz) IS
    'Fire schedules that are due, if this session has not looked for them within a second and knows of no slot since. '
    'Returns when it is to look again; -infinity if there may be more to fire.';


CREATE FUNCTION _pgq_next_slot(queues text[], at timestamptz) RETURNS timestamptz
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_next_slot$
BEGIN
    IF NOT EXISTS (SELECT FROM pgq_schedule_entry AS e WHERE e.due_at > at) THEN
        RETURN NULL;
    END IF;
    RETURN (
        SELECT min(next.due_at)
        FROM unnest(queues) AS q (queue)
        CROSS JOIN LATERAL (
            SELECT e.due_at
            FROM pgq_schedule_entry AS e
            WHERE e.queue = q.queue AND e.due_at > at AND e.due_at < 'infinity'
            ORDER BY e.due_at
            LIMIT 1
        ) AS next
    );
END
$_pgq_next_slot$;

COMMENT ON FUNCTION _pgq_next_slot(text[], timestamptz) IS
    'Return the first slot after a time of the schedules for these queues; NULL if there is none.';
