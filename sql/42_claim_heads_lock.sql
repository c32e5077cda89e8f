-- Which session makes a long scan.

-- A lock that ends with the transaction, so a session that fails or is cancelled leaves none behind. Any role can take
-- it and keep it, and so can a transaction that stays open after its claim. So it is tried, and no claim depends on it.
-- A transaction takes 65 such locks at most, however many queues it claims from; two queues with the same number are
-- not scanned at the same time.
CREATE FUNCTION _pgq_try_scan(queue text) RETURNS boolean
    LANGUAGE sql
    VOLATILE
    RETURN pg_try_advisory_xact_lock(
        'pgq_head'::regclass::oid::integer, CASE queue WHEN '' THEN -1 ELSE hashtext(queue) & 63 END);

COMMENT ON FUNCTION _pgq_try_scan(text) IS
    'Take the lock under which this transaction may make the long scan of a queue. Returns whether no other session '
    'has it.';


CREATE FUNCTION _pgq_await_head(queue text, at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_await_head$
DECLARE
    v_shared pgq_head;
BEGIN
    FOR v_try IN 1..100 LOOP
        EXIT WHEN _pgq_try_scan(queue) OR clock_timestamp() > at + interval '5 seconds';
        PERFORM pg_sleep(0.05);
        v_shared := _pgq_shared_head(queue, clock_timestamp());
        EXIT WHEN v_shared.due IS NOT NULL;
    END LOOP;
END
$_pgq_await_head$;

COMMENT ON FUNCTION _pgq_await_head(text, timestamptz) IS
    'Wait until this session may make the first scan of a queue, or another one has shared what it found; five seconds '
    'after the given time at most. Returns nothing.';


-- A session may keep the lock for ever. A claim that finds the lock taken, and the scan overdue by a delay, leaves a
-- row that says so. Claims that find this row 9 to 18 delays old, and nothing shared since, scan without the lock: not
-- all at once, since each draws its own number. The age of the scan alone would not do: after a pause in which no
-- session claims, it is overdue for all of them.
CREATE FUNCTION _pgq_is_kept(shared pgq_head, at timestamptz) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_is_kept$
DECLARE
    -- No queue has this name.
    c_queue CONSTANT text := E'\x1f' || ' kept ' || shared.queue;
    v_kept pgq_head;
BEGIN
    IF at < shared.due + shared.rescan_delay THEN
        RETURN false;
    END IF;
    v_kept := _pgq_shared_head(c_queue, at);
    IF v_kept.due > shared.due THEN
        RETURN at > v_kept.due + (9 + 9 * random()) * shared.rescan_delay;
    END IF;
    PERFORM _pgq_replace_head(ROW(c_queue, at, shared.rescan_delay, '{}')::pgq_head);
    RETURN false;
END
$_pgq_is_kept$;

COMMENT ON FUNCTION _pgq_is_kept(pgq_head, timestamptz) IS
    'Return whether another session has kept the lock of the long scan for so long that claims scan without it.';


CREATE FUNCTION _pgq_may_scan(shared pgq_head, at timestamptz) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_may_scan$
BEGIN
    IF shared.due > at THEN
        RETURN false;
    END IF;
    IF NOT _pgq_try_scan(shared.queue) THEN
        RETURN _pgq_is_kept(shared, at);
    END IF;
    -- The session that had the lock may have finished its scan since the heads were read.
    shared := _pgq_shared_head(shared.queue, clock_timestamp());
    RETURN coalesce(shared.due < clock_timestamp(), true);
END
$_pgq_may_scan$;

COMMENT ON FUNCTION _pgq_may_scan(pgq_head, timestamptz) IS
    'Return whether this session is to make a long scan: it is due, and no other session makes it.';
