-- The limits of a queue: one claim at a time, which counts what runs.
--
-- No number is stored that could be wrong: what runs is counted, in the rows of pgq_running, under the lock of the
-- queue. That lock is its row in pgq_queue_setting. No other role can take it, a change of the settings waits for it,
-- and the statement that takes it returns the settings as they are then. It ends with the transaction, so the next
-- claim counts the jobs of this one. So at no instant are more jobs running than the limits allow, and a job that ends
-- in any way, or whose lease is taken away, frees its place.

CREATE FUNCTION _pgq_has_limits(setting pgq_queue_setting) RETURNS boolean
    LANGUAGE sql
    IMMUTABLE
    RETURN num_nonnulls(setting.max_running, setting.max_per_group, setting.rate, setting.rate_per_group) > 0
        OR setting.ordered IS TRUE;

COMMENT ON FUNCTION _pgq_has_limits(pgq_queue_setting) IS
    'Return whether a queue with these settings is claimed from under its lock.';


CREATE FUNCTION _pgq_cap(setting pgq_queue_setting) RETURNS bigint
    LANGUAGE sql
    IMMUTABLE
    RETURN CASE WHEN setting.ordered THEN 1 ELSE setting.max_per_group END;

COMMENT ON FUNCTION _pgq_cap(pgq_queue_setting) IS
    'Return how many jobs of each group of a queue may run at a time; NULL: any number.';


-- A lock_timeout far below deadlock_timeout.
CREATE FUNCTION _pgq_await_queue(queue text) RETURNS pgq_queue_setting
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
    SET lock_timeout = '40ms'
AS $_pgq_await_queue$
DECLARE
    v_setting pgq_queue_setting;
BEGIN
    SELECT s.* INTO v_setting FROM pgq_queue_setting AS s WHERE s.queue = _pgq_await_queue.queue FOR UPDATE;
    RETURN v_setting;
EXCEPTION WHEN lock_not_available THEN
    RETURN NULL;
END
$_pgq_await_queue$;

COMMENT ON FUNCTION _pgq_await_queue(text) IS
    'Lock the settings of a queue until the end of the transaction, and wait for that for 40 milliseconds at most. '
    'Returns them; NULL if another transaction keeps the lock, or the queue has none.';


CREATE FUNCTION _pgq_lock_queue(queue text, waits boolean) RETURNS pgq_queue_setting
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_lock_queue$
DECLARE
    v_setting pgq_queue_setting;
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'queue % has limits and cannot be claimed from in isolation level %',
            queue, upper(current_setting('transaction_isolation'))
            USING ERRCODE = 'active_sql_transaction',
                  HINT = 'Claim in READ COMMITTED: a transaction that sees an old snapshot cannot count what runs.';
    END IF;
    SELECT s.* INTO v_setting
    FROM pgq_queue_setting AS s
    WHERE s.queue = _pgq_lock_queue.queue
    FOR UPDATE SKIP LOCKED;
    IF NOT FOUND AND waits THEN
        v_setting := _pgq_await_queue(queue);
    END IF;
    RETURN v_setting;
END
$_pgq_lock_queue$;

COMMENT ON FUNCTION _pgq_lock_queue(text, boolean) IS
    'Lock a queue that has limits until the end of the transaction. Returns its settings; NULL if another transaction '
    'keeps the lock, for more than 40 milliseconds if this one waits. Raises 25001 in an isolation level above READ '
    'COMMITTED.';
