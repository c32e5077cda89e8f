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

-- The table has no key. Without an identity its rows could not be deleted once a publication has the table.
ALTER TABLE pgq_rate REPLICA IDENTITY FULL;

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


-- Rounded up to a microsecond, so that the sum of many steps is no smaller than that of the rate. 3155760000000000 are a
-- hundred years: burst steps of a slow rate may take longer than a timestamp can have.
CREATE FUNCTION _pgq_span(steps bigint, rate integer, per interval) RETURNS interval
    LANGUAGE sql
    IMMUTABLE
    RETURN least(ceil(steps * extract(epoch FROM per)::numeric * 1000000 / rate), 3155760000000000)::bigint
        * interval '1 microsecond';

COMMENT ON FUNCTION _pgq_span(bigint, integer, interval) IS
    'Return how long so many steps of a rate are, a hundred years at most.';


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


-- A time that lies far further ahead than burst steps was written before the clock was set back.
CREATE FUNCTION _pgq_known_spent(
    all_spent timestamptz,
    rate integer,
    setting pgq_queue_setting,
    at timestamptz
) RETURNS timestamptz
    LANGUAGE sql
    IMMUTABLE
    RETURN CASE
        WHEN all_spent <= at + _pgq_span(coalesce(setting.burst, 1), rate, setting.per) + interval '1 minute'
            THEN all_spent
    END;

COMMENT ON FUNCTION _pgq_known_spent(timestamptz, integer, pgq_queue_setting, timestamptz) IS
    'Return until when a rate is used, given what pgq_rate says; NULL if that cannot be so at this time.';


CREATE FUNCTION _pgq_all_spent(setting pgq_queue_setting, group_id bigint, at timestamptz) RETURNS timestamptz
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_all_spent$
BEGIN
    RETURN (
        SELECT _pgq_known_spent(
                   r.all_spent, CASE WHEN r.group_id = 0 THEN setting.rate ELSE setting.rate_per_group END, setting, at)
        FROM pgq_rate AS r
        WHERE r.queue = setting.queue AND r.group_id = _pgq_all_spent.group_id
        ORDER BY r.all_spent DESC
        LIMIT 1
    );
END
$_pgq_all_spent$;

COMMENT ON FUNCTION _pgq_all_spent(pgq_queue_setting, bigint, timestamptz) IS
    'Return until when the rate of a queue, group 0, or of a group of it, is used at a time; NULL: not at all.';


-- Otherwise the starts under a slow rate would keep jobs waiting long after it has become a fast one.
CREATE FUNCTION _pgq_change_rate(setting pgq_queue_setting, at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_change_rate$
BEGIN
    UPDATE pgq_rate AS r
    SET all_spent = at + span.burst
    FROM (
        SELECT r.ctid AS place,
               _pgq_span(
                   coalesce(setting.burst, 1),
                   CASE WHEN r.group_id = 0 THEN setting.rate ELSE setting.rate_per_group END,
                   setting.per) AS burst
        FROM pgq_rate AS r
        WHERE r.queue = setting.queue
        OFFSET 0
    ) AS span
    WHERE r.ctid = span.place
      AND r.all_spent > at + span.burst;
END
$_pgq_change_rate$;

COMMENT ON FUNCTION _pgq_change_rate(pgq_queue_setting, timestamptz) IS
    'Note that a queue and its groups have used no more than the burst of the rates that it has now. This transaction '
    'has the lock of the queue. Returns nothing.';
