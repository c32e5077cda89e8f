-- The view of the schedules.

CREATE VIEW pgq_schedules WITH (security_barrier) AS
SELECT e.name COLLATE "default" AS name, e.cron, e.timezone, e.queue COLLATE "default" AS queue, e.kind,
       CASE WHEN s.reads THEN e.args END AS args, e.priority::integer AS priority, e.max_retries, e.backoff,
       e.backoff_cap, CASE WHEN s.reads THEN e.group_key END AS group_key, e.catch_up, e.overlap, e.jitter, e.source,
       e.paused_at IS NOT NULL AS paused,
       CASE WHEN e.paused_at IS NULL THEN nullif(e.next_at, 'infinity') END AS next_at, e.last_at, e.last_job,
       CASE WHEN s.reads THEN e.last_error END AS last_error, e.last_error_at, e.missed,
       coalesce((SELECT q.sensitive FROM pgq_queue_setting AS q WHERE q.queue = e.queue), false) AS sensitive
FROM pgq_schedule_entry AS e
CROSS JOIN LATERAL (
    SELECT visible.sees_all OR e.queue = ANY (visible.sees) AS sees,
           visible.reads_all OR e.queue = ANY (visible.reads) AS reads
    FROM _pgq_visible_queues AS visible
) AS s
WHERE s.sees;

COMMENT ON VIEW pgq_schedules IS
    'Schedules. A role sees those for the queues that it may use as admin or reader; where it is only a reader, args, '
    'group_key and last_error are NULL.';
COMMENT ON COLUMN pgq_schedules.name IS 'Name of the schedule.';
COMMENT ON COLUMN pgq_schedules.cron IS 'Cron expression, whose times are the slots.';
COMMENT ON COLUMN pgq_schedules.timezone IS 'Time zone of the expression.';
COMMENT ON COLUMN pgq_schedules.queue IS 'Queue of the jobs.';
COMMENT ON COLUMN pgq_schedules.kind IS 'Kind of the jobs.';
COMMENT ON COLUMN pgq_schedules.args IS 'Arguments of the jobs; NULL to a role that is not an admin of the queue.';
COMMENT ON COLUMN pgq_schedules.priority IS 'Priority of the jobs.';
COMMENT ON COLUMN pgq_schedules.max_retries IS 'max_retries of the jobs; NULL: that of the queue.';
COMMENT ON COLUMN pgq_schedules.backoff IS 'backoff of the jobs; NULL: that of the queue.';
COMMENT ON COLUMN pgq_schedules.backoff_cap IS 'backoff_cap of the jobs; NULL: that of the queue.';
COMMENT ON COLUMN pgq_schedules.group_key IS 'Key of the group of the jobs; NULL: none, or it is hidden like args.';
COMMENT ON COLUMN pgq_schedules.catch_up IS
    'What becomes of slots that are late: one job for the newest (one), a job for each (all), or none (none).';
COMMENT ON COLUMN pgq_schedules.overlap IS
    'Whether a slot is left out while the last job waits or runs (skip), or not (allow).';
COMMENT ON COLUMN pgq_schedules.jitter IS 'Longest random delay of a job after its slot.';
COMMENT ON COLUMN pgq_schedules.source IS 'What has declared the schedule, such as a module; NULL: made by hand.';
COMMENT ON COLUMN pgq_schedules.paused IS 'Whether the schedule is paused.';
COMMENT ON COLUMN pgq_schedules.next_at IS 'The next slot; NULL: the schedule is paused, or has no further slot.';
COMMENT ON COLUMN pgq_schedules.last_at IS
    'The last slot that has got a job, or when pgq_run_schedule was called; NULL: neither yet.';
COMMENT ON COLUMN pgq_schedules.last_job IS 'Number of the last job; NULL: none yet.';
COMMENT ON COLUMN pgq_schedules.last_error IS
    'Why the next slot could not be fired; it is tried again each minute. NULL: it could, or it is hidden like args.';
COMMENT ON COLUMN pgq_schedules.last_error_at IS 'When that was last tried; NULL: it did not fail.';
COMMENT ON COLUMN pgq_schedules.missed IS
    'Number of slots that have got no job, because they were late or the last job still lived; of those that are late '
    'at a time, 100 count at most.';
COMMENT ON COLUMN pgq_schedules.sensitive IS
    'Whether the queue is sensitive (see pgq_configure): args, group_key and last_error are then for an admin who asks '
    'for them.';
