-- What pgq_configure and pgq_pause say of queues.
--
-- Both tables are small, and read by key. A call reads them only for a queue that is marked.

CREATE TABLE pgq_queue_setting (
    queue          text COLLATE "C" NOT NULL,
    max_running    integer,
    max_per_group  integer,
    ordered        boolean,
    on_dead        text,
    rate           integer,
    per            interval,
    burst          integer,
    rate_per_group integer,
    max_retries    integer,
    backoff        interval,
    backoff_cap    interval,
    lease          interval,
    keep_done      interval,
    keep_dead      interval,
    keep_cancelled interval,
    sensitive      boolean,

    CONSTRAINT pgq_queue_setting_pkey PRIMARY KEY (queue)
);

COMMENT ON TABLE pgq_queue_setting IS
    'Settings of queues, written by pgq_configure, whose keys are the columns. NULL in any of them means that it is '
    'not set.';
COMMENT ON COLUMN pgq_queue_setting.queue IS
    'Queue that the settings are for; empty: those of all queues, of which only keep_done, keep_dead and '
    'keep_cancelled may be set.';
COMMENT ON COLUMN pgq_queue_setting.max_running IS 'Most jobs of the queue that run at a time.';
COMMENT ON COLUMN pgq_queue_setting.max_per_group IS 'Most jobs of each group that run at a time.';
COMMENT ON COLUMN pgq_queue_setting.ordered IS
    'Whether the jobs of each group run one after the other, in the order in which they were enqueued.';
COMMENT ON COLUMN pgq_queue_setting.on_dead IS
    'What a dead job does to the jobs after it in its group: continue (the default) lets them run, stop keeps them.';
COMMENT ON COLUMN pgq_queue_setting.rate IS 'Jobs of the queue that may start in each interval "per".';
COMMENT ON COLUMN pgq_queue_setting.per IS 'Interval of rate and rate_per_group.';
COMMENT ON COLUMN pgq_queue_setting.burst IS
    'Jobs that may start at once after a pause, beyond what rate and rate_per_group allow.';
COMMENT ON COLUMN pgq_queue_setting.rate_per_group IS 'Jobs of each group that may start in each interval "per".';
COMMENT ON COLUMN pgq_queue_setting.max_retries IS 'max_retries of jobs that were enqueued without.';
COMMENT ON COLUMN pgq_queue_setting.backoff IS 'backoff of jobs that were enqueued without.';
COMMENT ON COLUMN pgq_queue_setting.backoff_cap IS 'backoff_cap of jobs that were enqueued without.';
COMMENT ON COLUMN pgq_queue_setting.lease IS 'Lease of claims that are made without.';
COMMENT ON COLUMN pgq_queue_setting.keep_done IS
    'How long a job is kept that is done; if it is set for the queue itself, also one that is done without a result.';
COMMENT ON COLUMN pgq_queue_setting.keep_dead IS 'How long a dead job is kept.';
COMMENT ON COLUMN pgq_queue_setting.keep_cancelled IS 'How long a cancelled job is kept.';
COMMENT ON COLUMN pgq_queue_setting.sensitive IS
    'Whether the programs of pgq show no arguments, results and errors of the queue unless they are asked to.';


CREATE TABLE pgq_paused (
    queue     text COLLATE "C" NOT NULL,
    group_id  bigint           NOT NULL,
    group_key text,
    until     timestamptz      NOT NULL,
    paused_at timestamptz      NOT NULL,

    CONSTRAINT pgq_paused_pkey PRIMARY KEY (queue, group_id)
);

COMMENT ON TABLE pgq_paused IS 'Queues and groups that are paused, or were: pgq_pause removes rows whose time is over.';
COMMENT ON COLUMN pgq_paused.queue IS 'Queue that is paused, or that the group belongs to.';
COMMENT ON COLUMN pgq_paused.group_id IS 'Number of the group that is paused, as in pgq_waiting; 0: the whole queue.';
COMMENT ON COLUMN pgq_paused.group_key IS 'Key of the group; NULL: the whole queue.';
COMMENT ON COLUMN pgq_paused.until IS 'When the pause ends; infinity: when pgq_resume is called.';
COMMENT ON COLUMN pgq_paused.paused_at IS 'When pgq_pause was last called.';


CREATE FUNCTION _pgq_with_defaults(job pgq_waiting) RETURNS pgq_waiting
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_with_defaults$
DECLARE
    v_setting pgq_queue_setting;
BEGIN
    SELECT s.* INTO v_setting FROM pgq_queue_setting AS s WHERE s.queue = job.queue COLLATE "C";
    job.max_retries := coalesce(job.max_retries, v_setting.max_retries, 10);
    job.backoff := coalesce(job.backoff, v_setting.backoff, '1 minute');
    job.backoff_cap := coalesce(job.backoff_cap, v_setting.backoff_cap, '1 hour');
    RETURN job;
END
$_pgq_with_defaults$;

COMMENT ON FUNCTION _pgq_with_defaults(pgq_waiting) IS
    'Return a waiting job with the max_retries, backoff and backoff_cap that it would be claimed with.';


-- The rows are locked already. Not in the statement that takes them, because the look-up would cost all claims.
CREATE FUNCTION _pgq_set_defaults(rows tid[]) RETURNS tid[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_set_defaults$
DECLARE
    v_rows tid[];
BEGIN
    WITH updated AS (
        UPDATE pgq_waiting AS w
        SET max_retries = coalesce(w.max_retries, s.max_retries),
            backoff = coalesce(w.backoff, s.backoff),
            backoff_cap = coalesce(w.backoff_cap, s.backoff_cap),
            newest_error = CASE WHEN s.keep_done IS NOT NULL THEN coalesce(w.newest_error, 0) ELSE w.newest_error END
        FROM pgq_queue_setting AS s
        WHERE w.ctid = ANY (rows)
          AND s.queue = w.queue COLLATE "C"
          AND num_nonnulls(s.max_retries, s.backoff, s.backoff_cap, s.keep_done) > 0
        RETURNING w.ctid
    ), others AS (
        SELECT w.ctid
        FROM pgq_waiting AS w
        WHERE w.ctid = ANY (rows)
          AND NOT EXISTS (
              SELECT
              FROM pgq_queue_setting AS s
              WHERE s.queue = w.queue COLLATE "C"
                AND num_nonnulls(s.max_retries, s.backoff, s.backoff_cap, s.keep_done) > 0)
    )
    SELECT ARRAY(SELECT u.ctid FROM updated AS u UNION ALL SELECT o.ctid FROM others AS o) INTO v_rows;
    RETURN v_rows;
END
$_pgq_set_defaults$;

COMMENT ON FUNCTION _pgq_set_defaults(tid[]) IS
    'Set max_retries, backoff and backoff_cap of waiting jobs that were enqueued without, if their queues have '
    'settings for these, and newest_error of jobs without an error to 0, if their queues keep all that is done. '
    'Returns the ctids of the rows, in any order.';
