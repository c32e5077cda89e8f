-- How a queue that runs gets its first limit.
--
-- A claim that has found no limit may be under way. It takes its jobs without the lock of the queue, and without
-- counting. Each claim reads the marks before it takes a job, and pg_sequence_last_value locks their sequence until the
-- end of the transaction. Claims that were under way when the queue was marked are known by that. All others look for
-- settings, and lock their table by that.

CREATE FUNCTION _pgq_await_claims() RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_await_claims$
DECLARE
    v_under_way text[];
BEGIN
    FOR v_try IN 1..1000 LOOP
        v_under_way := ARRAY(
            SELECT l.virtualtransaction
            FROM pg_locks AS l
            WHERE l.locktype = 'relation'
              AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
              AND l.relation = 'pgq_mark'::regclass
              AND l.mode = 'RowExclusiveLock'
              AND l.pid IS DISTINCT FROM pg_backend_pid()
              AND (v_under_way IS NULL OR l.virtualtransaction = ANY (v_under_way))
        );
        IF v_under_way = '{}' THEN
            RETURN;
        END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RAISE EXCEPTION 'transactions that have claimed jobs stay open'
        USING ERRCODE = 'lock_not_available',
              HINT = 'Try again later, or end those that pg_stat_activity shows as open for long: a limit counts what '
                     'they claim.';
END
$_pgq_await_claims$;

COMMENT ON FUNCTION _pgq_await_claims() IS
    'Wait for the end of all other transactions that have read the marks of queues. Returns nothing. Raises 55P03 '
    'after about ten seconds.';


-- Claims of all queues that are marked wait from now on, so this waits for a tenth of a second at a time.
CREATE FUNCTION _pgq_lock_settings() RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET lock_timeout = '100ms'
AS $_pgq_lock_settings$
BEGIN
    FOR v_try IN 1..50 LOOP
        BEGIN
            LOCK TABLE pgq_queue_setting IN ACCESS EXCLUSIVE MODE;
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.1);
        END;
    END LOOP;
    RAISE EXCEPTION 'transactions that have looked for the settings of queues stay open'
        USING ERRCODE = 'lock_not_available',
              HINT = 'Try again later, or end those that pg_stat_activity shows as open for long: a limit counts what '
                     'they claim.';
END
$_pgq_lock_settings$;

COMMENT ON FUNCTION _pgq_lock_settings() IS
    'Wait until no other transaction has looked for the settings of queues, and keep it so until the end of this one. '
    'Returns nothing. Raises 55P03 after about ten seconds.';


-- Rows that are locked, mostly by the transaction of a handler, cannot be changed: to wait for it would be a deadlock,
-- because it could not end its job. These jobs are noted.
CREATE FUNCTION _pgq_begin_limits(queue text) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_begin_limits$
DECLARE
    v_rows tid[];
BEGIN
    PERFORM _pgq_await_claims();
    PERFORM _pgq_lock_settings();
    DELETE FROM pgq_turn AS t WHERE t.queue = _pgq_begin_limits.queue;
    PERFORM _pgq_unpack(ARRAY(
        SELECT b.token
        FROM pgq_running_batch AS b
        WHERE b.queues @> ARRAY[queue]
        FOR UPDATE SKIP LOCKED));
    v_rows := ARRAY(
        SELECT r.ctid
        FROM pgq_running AS r
        WHERE r.queue = _pgq_begin_limits.queue
          AND r.group_id IS NULL
        FOR UPDATE SKIP LOCKED);
    UPDATE pgq_running AS r SET group_id = coalesce(_pgq_group_id(r.group_key), 0) WHERE r.ctid = ANY (v_rows);
    DELETE FROM pgq_uncounted AS u WHERE u.queue = _pgq_begin_limits.queue;
    INSERT INTO pgq_uncounted (queue, id, token, group_id)
    SELECT r.queue, r.id, r.token, coalesce(_pgq_group_id(r.group_key), 0)
    FROM _pgq_running AS r
    WHERE r.queue = _pgq_begin_limits.queue
      AND r.group_id IS NULL;
END
$_pgq_begin_limits$;

COMMENT ON FUNCTION _pgq_begin_limits(text) IS
    'Make the running jobs of a queue count, which this transaction has marked, and gives its first limit. Returns '
    'nothing. Raises 55P03 if transactions that have claimed jobs stay open.';
