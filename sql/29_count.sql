-- Counts of what has happened to jobs, since ever: a job that is done leaves nothing else.
--
-- Rows are appended, never updated, and maintenance folds many into few, so no row is hot. What is counted where it
-- costs least:
--
-- - A claim counts its jobs, for each kind, in the statement that removes them from pgq_waiting.
-- - A packed batch counts its jobs when all of them are done, or when it is unpacked.
-- - What ends an attempt otherwise than done counts it. So what is done is the rest: the completion of a job that is a
--   row counts nothing.
-- - An enqueue counts nothing either: what was enqueued is what lives, and what has ended.
--
-- All this happens in the transactions of the calls, so the counts are exact.

CREATE TABLE pgq_count (
    queue  text   NOT NULL,
    kind   text   NOT NULL,
    event  text   NOT NULL,
    jobs   bigint NOT NULL,
    waited interval,
    ran    interval
)
WITH (
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);

-- The table has no key. Without an identity its rows could not be deleted once a publication has the table.
ALTER TABLE pgq_count REPLICA IDENTITY FULL;

COMMENT ON TABLE pgq_count IS
    'What has happened to jobs. Maintenance folds the rows: the sums count, by queue, kind and event.';
COMMENT ON COLUMN pgq_count.queue IS 'Queue of the jobs.';
COMMENT ON COLUMN pgq_count.kind IS 'Kind of the jobs.';
COMMENT ON COLUMN pgq_count.event IS
    'claimed: an attempt has begun. How it has ended, unless as done: returned, it does not count; failed; dead, it '
    'has failed for good; stopped, the running job was cancelled. Beside these, timed: jobs that are done, with their '
    'times; packed: a batch is done, which counts as claimed and timed; cancelled: while the job waited; merged: the '
    'job is gone; retried: an operator has put it back.';
COMMENT ON COLUMN pgq_count.jobs IS 'Number of the jobs.';
COMMENT ON COLUMN pgq_count.waited IS 'How long the jobs had been ripe when they were claimed, summed up.';
COMMENT ON COLUMN pgq_count.ran IS 'Times from the claim to the end, summed up.';


-- An expression, so that PostgreSQL inlines it. To count the time of each job that is a row would cost eight percent
-- of its life, so one claim in 64 is chosen, and its jobs count for 64.
CREATE FUNCTION _pgq_is_timed(token bigint) RETURNS boolean
    LANGUAGE sql
    IMMUTABLE
    RETURN hashint8(token) & 63 = 0;

COMMENT ON FUNCTION _pgq_is_timed(bigint) IS
    'Return whether the time that the jobs of a claim take is counted, if they are rows of pgq_running.';


-- Not all queues and kinds are the same: in _pgq_complete_held the usual case needs no call. How long the jobs had been
-- ripe is estimated there, too: one of them, which the token chooses, stands for all.
CREATE FUNCTION _pgq_count_batch(
    token bigint,
    queues text[],
    kinds text[],
    ripe_ats timestamptz[],
    claimed_at timestamptz,
    ended_at timestamptz
) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_count_batch$
BEGIN
    INSERT INTO pgq_count (queue, kind, event, jobs, waited, ran)
    SELECT j.queue, j.kind, CASE WHEN ended_at IS NULL THEN 'claimed' ELSE 'packed' END, count(*),
           (claimed_at - ripe_ats[1 + token % cardinality(kinds)]) * count(*), (ended_at - claimed_at) * count(*)
    FROM unnest(queues, kinds) AS j (queue, kind)
    GROUP BY j.queue, j.kind;
END
$_pgq_count_batch$;

COMMENT ON FUNCTION _pgq_count_batch(bigint, text[], text[], timestamptz[], timestamptz, timestamptz) IS
    'Count the jobs of a packed batch that is deleted: all are done at ended_at, or they are unpacked if that is NULL. '
    'Returns nothing.';
