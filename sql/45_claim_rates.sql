-- How many jobs of a queue, or of a group, may start: its rate.
--
-- Each start moves a time on by one step, which is per / rate. The time begins at the present if it lies in the past,
-- and no job may start if that would move it further ahead than burst steps. So in any window no more jobs start than
-- burst, and rate for each "per" in it. Read and written under the lock of the queue; a claim that rolls back has not
-- moved it.
--
-- Rows are replaced and never updated, and the newest is the first in the index: while a snapshot is held, a row that
-- is updated for each claim would become a chain that each claim has to walk along.

CREATE TABLE pgq_rate (
    queue     text COLLATE "C" NOT NULL,
    group_id  bigint           NOT NULL,
    all_spent timestamptz      NOT NULL
);

CREATE INDEX pgq_rate_spent ON pgq_rate (queue, group_id, all_spent);

COMMENT ON TABLE pgq_rate IS 'How far the jobs that have started have used the rates of their queues and groups.';
COMMENT ON COLUMN pgq_rate.queue IS 'The queue.';
COMMENT ON COLUMN pgq_rate.group_id IS 'Number of the group, as in pgq_waiting; 0: the queue.';
COMMENT ON COLUMN pgq_rate.all_spent IS
    'Until when the starts so far have used the rate; a time in the past: not at all.';


CREATE FUNCTION _pgq_rate_steps(span interval, rate integer, per interval) RETURNS bigint
    LANGUAGE sql
    IMMUTABLE
    RETURN ceil(extract(epoch FROM greatest(span, interval '0'))::numeric * rate / extract(epoch FROM per)::numeric);

COMMENT ON FUNCTION _pgq_rate_steps(interval, integer, interval) IS
    'Return how many steps of a rate a span takes, rounded up; 0 if it is negative.';


-- Rounded up to a microsecond, so that the sum of many steps is no smaller than that of the rate.
CREATE FUNCTION _pgq_span(steps bigint, rate integer, per interval) RETURNS interval
    LANGUAGE sql
    IMMUTABLE
    RETURN ceil(steps * extract(epoch FROM per)::numeric * 1000000 / rate)::bigint * interval '1 microsecond';

COMMENT ON FUNCTION _pgq_span(bigint, integer, interval) IS 'Return how long so many steps of a rate are.';


-- A time that lies further ahead than it can was written before the clock was set back, or the rate was changed.
CREATE FUNCTION _pgq_may_start(all_spent timestamptz, rate integer, setting pgq_queue_setting, at timestamptz)
    RETURNS bigint
    LANGUAGE sql
    IMMUTABLE
    RETURN CASE
        WHEN rate IS NOT NULL
            THEN greatest(
                coalesce(setting.burst, 1) - coalesce(_pgq_rate_steps(all_spent - at, rate, setting.per), 0), 0)
    END;

COMMENT ON FUNCTION _pgq_may_start(timestamptz, integer, pgq_queue_setting, timestamptz) IS
    'Return how many jobs may start at a time under a rate; NULL without one.';


CREATE FUNCTION _pgq_all_spent(queue text, group_id bigint) RETURNS timestamptz
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_all_spent$
BEGIN
    RETURN (
        SELECT r.all_spent
        FROM pgq_rate AS r
        WHERE r.queue = _pgq_all_spent.queue AND r.group_id = _pgq_all_spent.group_id
        ORDER BY r.all_spent DESC
        LIMIT 1
    );
END
$_pgq_all_spent$;

COMMENT ON FUNCTION _pgq_all_spent(text, bigint) IS
    'Return until when the rate of a queue, group 0, or of a group of it, is used; NULL: not at all.';
