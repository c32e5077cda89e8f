-- For tests only. Never load this where real jobs live: whoever may claim could then claim jobs that are not ripe.

-- Time travel: in a session that sets pgq.now, pgq lives at that time.
CREATE OR REPLACE FUNCTION pgq_now() RETURNS timestamptz
    LANGUAGE sql
    VOLATILE
    RETURN coalesce(nullif(current_setting('pgq.now', true), '')::timestamptz, clock_timestamp());

-- Each claim looks everywhere, however long that takes: what tests roll back would otherwise hide jobs for a moment.
CREATE OR REPLACE FUNCTION _pgq_rescan_delay(cost interval) RETURNS interval
    LANGUAGE sql
    IMMUTABLE
    RETURN interval '0';
