-- For tests only. Never load this where real jobs live: any role that may claim could then claim jobs that are not ripe.

-- Time travel: a session that sets pgq.now sees that time as the time of pgq.
CREATE OR REPLACE FUNCTION pgq_now() RETURNS timestamptz
    LANGUAGE sql
    VOLATILE
    RETURN coalesce(nullif(current_setting('pgq.now', true), '')::timestamptz, clock_timestamp());

-- Let each claim scan from the start, however long that takes: after a claim that a test rolls back, the session's heads
-- would otherwise hide the jobs for a moment.
CREATE OR REPLACE FUNCTION _pgq_rescan_delay(cost interval) RETURNS interval
    LANGUAGE sql
    IMMUTABLE
    RETURN interval '0';
