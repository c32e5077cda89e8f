-- For tests only. Never load this where real jobs live: any role that may claim could then claim jobs that are not ripe.

-- Time travel. A session that sets pgq.now has that time. All sessions of a database have the time that pgq.testing
-- keeps there in the key of an advisory lock, as microseconds since the year 1: no rollback undoes a lock of another
-- session, no snapshot hides it, every role can read it, and it ends with the session that holds it. That session also
-- holds a lock whose key is 'pgqclock' in ASCII. As long as this one is free, pg_locks need not be read.
CREATE OR REPLACE FUNCTION pgq_now() RETURNS timestamptz
    LANGUAGE sql
    VOLATILE
    RETURN coalesce(
        nullif(current_setting('pgq.now', true), '')::timestamptz,
        CASE
            WHEN pg_try_advisory_lock_shared(8099567126684066667) THEN
                CASE WHEN pg_advisory_unlock_shared(8099567126684066667) THEN clock_timestamp() END
            ELSE (
                SELECT timestamptz '0001-01-01 00:00Z' + max(l.time) / 86400000000 * interval '24 hours'
                       + max(l.time) % 86400000000 * interval '1 microsecond'
                FROM (
                    SELECT pid, mode, nullif(classid::bigint << 32 | objid::bigint, 8099567126684066667) AS time
                    FROM pg_locks
                    WHERE locktype = 'advisory'
                      AND objsubid = 1
                      AND granted
                      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                ) AS l
                GROUP BY l.pid
                HAVING bool_or(l.time IS NULL AND l.mode = 'ExclusiveLock')
            )
        END,
        clock_timestamp());

-- Let each claim scan from the start, however long that takes: after a claim that a test rolls back, the session's heads
-- would otherwise hide the jobs for a moment.
CREATE OR REPLACE FUNCTION _pgq_rescan_delay(entries bigint) RETURNS interval
    LANGUAGE sql
    IMMUTABLE
    RETURN interval '0';

-- In a new database a worker that is gone counts as gone at once: no crash has emptied pgq_head.
INSERT INTO pgq_head VALUES (E'\x1f', '-infinity', '0', '{}');
