-- Schedules: entries that enqueue a job each time a cron expression fires.
--
-- Such a time is a slot of the entry. Claims fire the slots that are due, and the lock of the row sees to it that each
-- slot is fired once: its jobs are inserted, and next_at moves on, in one transaction.

CREATE TABLE pgq_schedule_entry (
    name          text COLLATE "C" NOT NULL,
    cron          text             NOT NULL,
    timezone      text             NOT NULL,
    queue         text COLLATE "C" NOT NULL,
    kind          text             NOT NULL,
    args          jsonb            NOT NULL,
    priority      smallint         NOT NULL,
    max_retries   integer,
    backoff       interval,
    backoff_cap   interval,
    group_key     text,
    catch_up      text             NOT NULL,
    overlap       text             NOT NULL,
    jitter        interval         NOT NULL,
    source        text,
    paused_at     timestamptz,
    next_at       timestamptz      NOT NULL,
    due_at        timestamptz      NOT NULL,
    set_at        timestamptz      NOT NULL,
    last_at       timestamptz,
    last_job      bigint,
    last_error    text,
    last_error_at timestamptz,
    missed        bigint           NOT NULL DEFAULT 0,

    CONSTRAINT pgq_schedule_entry_pkey PRIMARY KEY (name)
);

CREATE INDEX pgq_schedule_entry_due ON pgq_schedule_entry (due_at);
CREATE INDEX pgq_schedule_entry_queue ON pgq_schedule_entry (queue, due_at);

COMMENT ON TABLE pgq_schedule_entry IS
    'Schedules, which enqueue a job at each of their slots; written by pgq_schedule.';
COMMENT ON COLUMN pgq_schedule_entry.name IS 'Name of the schedule.';
COMMENT ON COLUMN pgq_schedule_entry.cron IS 'Cron expression, whose times are the slots.';
COMMENT ON COLUMN pgq_schedule_entry.timezone IS 'Time zone of the expression.';
COMMENT ON COLUMN pgq_schedule_entry.queue IS 'Queue of the jobs.';
COMMENT ON COLUMN pgq_schedule_entry.kind IS 'Kind of the jobs.';
COMMENT ON COLUMN pgq_schedule_entry.args IS 'Arguments of the jobs.';
COMMENT ON COLUMN pgq_schedule_entry.priority IS 'Priority of the jobs.';
COMMENT ON COLUMN pgq_schedule_entry.max_retries IS 'max_retries of the jobs; NULL: that of the queue.';
COMMENT ON COLUMN pgq_schedule_entry.backoff IS 'backoff of the jobs; NULL: that of the queue.';
COMMENT ON COLUMN pgq_schedule_entry.backoff_cap IS 'backoff_cap of the jobs; NULL: that of the queue.';
COMMENT ON COLUMN pgq_schedule_entry.group_key IS 'Key of the group of the jobs; NULL: none.';
COMMENT ON COLUMN pgq_schedule_entry.catch_up IS
    'What becomes of slots that are late: one job for the newest (one), a job for each (all), or none (none).';
COMMENT ON COLUMN pgq_schedule_entry.overlap IS
    'Whether a slot is left out while the last job waits or runs (skip), or not (allow).';
COMMENT ON COLUMN pgq_schedule_entry.jitter IS 'Longest random delay of a job after its slot.';
COMMENT ON COLUMN pgq_schedule_entry.source IS 'What has declared the schedule, such as a module; NULL: made by hand.';
COMMENT ON COLUMN pgq_schedule_entry.paused_at IS 'When the schedule was paused; NULL: it is not.';
COMMENT ON COLUMN pgq_schedule_entry.next_at IS 'The next slot.';
COMMENT ON COLUMN pgq_schedule_entry.due_at IS
    'When a claim fires the slot: next_at, a later time after an error, infinity while the schedule is paused.';
COMMENT ON COLUMN pgq_schedule_entry.set_at IS
    'When due_at was set; in the future where the clock was set back since.';
COMMENT ON COLUMN pgq_schedule_entry.last_at IS
    'The last slot that has got a job, or when pgq_run_schedule was called.';
COMMENT ON COLUMN pgq_schedule_entry.last_job IS 'Number of the last job.';
COMMENT ON COLUMN pgq_schedule_entry.last_error IS 'Why the slot could not be fired; NULL: it could.';
COMMENT ON COLUMN pgq_schedule_entry.last_error_at IS 'When that was.';
COMMENT ON COLUMN pgq_schedule_entry.missed IS
    'Number of slots that have got no job; up to 100 of those that are late at a time.';
