-- Time travel, for tests only: in a session that sets pgq.now, pgq lives at that time.
--
-- Never load this where real jobs live: whoever may claim could then claim jobs that are not ripe.
CREATE OR REPLACE FUNCTION pgq_now() RETURNS timestamptz
    LANGUAGE sql
    VOLATILE
    RETURN coalesce(nullif(current_setting('pgq.now', true), '')::timestamptz, clock_timestamp());
