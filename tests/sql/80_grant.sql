-- Privileges: a role may do nothing until pgq_grant lets it.
BEGIN;
SELECT plan(39);

CREATE ROLE tap_nobody;
CREATE ROLE tap_producer;
CREATE ROLE tap_worker;
CREATE ROLE tap_admin;
CREATE ROLE "tap_Reader";
SELECT lives_ok(format('SELECT pgq_grant(%L, %L)', role, privilege), format('pgq_grant(%s, %s) succeeds', role, privilege))
FROM (VALUES ('tap_producer', 'producer'), ('tap_worker', 'worker'), ('tap_admin', 'admin'), ('tap_Reader', 'reader')) AS g (role, privilege);

SELECT is(
    ARRAY(SELECT proname::text FROM pg_proc
          WHERE pronamespace = quote_ident(current_schema())::regnamespace AND proname ~ '^_?pgq_' AND has_function_privilege(role, oid, 'EXECUTE')
          ORDER BY proname::text COLLATE "C"),
    functions::text[], format('%s may execute exactly these functions', role))
FROM (VALUES
    ('tap_nobody', '{}'),
    ('tap_producer', '{pgq_await,pgq_backoff,pgq_batch_progress,pgq_cron_next,pgq_enqueue,pgq_enqueue_batch,pgq_enqueue_many,pgq_result,pgq_signal,pgq_signal_key,pgq_version}'),
    ('tap_worker', '{pgq_add_to_batch,pgq_backoff,pgq_batch_progress,pgq_cancel_claimed,pgq_cancel_requested,pgq_claim,pgq_claim_batch,pgq_complete,pgq_complete_many,pgq_cron_next,pgq_decline,pgq_extend,pgq_fail,pgq_hold,pgq_hold_many,pgq_idle,pgq_queues_to_serve,pgq_reconcile,pgq_register,pgq_release,pgq_remaining,pgq_ripe_in,pgq_save,pgq_snooze,pgq_unregister,pgq_version,pgq_wait_signal}'),
    ('tap_admin', '{pgq_await,pgq_backoff,pgq_batch_progress,pgq_cancel,pgq_configure,pgq_cron_next,pgq_find_jobs,pgq_now,pgq_overview_counters,pgq_overview_deaths,pgq_overview_ids,pgq_overview_kinds,pgq_overview_queues,pgq_overview_waits,pgq_pause,pgq_pause_schedule,pgq_purge,pgq_purge_jobs,pgq_result,pgq_resume,pgq_resume_schedule,pgq_retry,pgq_run_schedule,pgq_schedule,pgq_signal,pgq_signal_key,pgq_unschedule,pgq_update,pgq_version}'),
    ('tap_Reader', '{pgq_backoff,pgq_cron_next,pgq_find_jobs,pgq_now,pgq_overview_counters,pgq_overview_deaths,pgq_overview_ids,pgq_overview_kinds,pgq_overview_queues,pgq_overview_waits,pgq_version}')
) AS t (role, functions);
SELECT is(
    ARRAY(SELECT c.relname || '.' || a.attname  -- for the admin, the columns whose privileges are wrong
          FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
          WHERE c.relnamespace = quote_ident(current_schema())::regnamespace AND c.relname ~ '^_?pgq_' AND c.relkind IN ('r', 'v')
            AND (has_column_privilege(role, c.oid, a.attnum, 'SELECT, INSERT, UPDATE, REFERENCES')) <> (role = 'tap_admin' AND c.relkind = 'v' AND c.relname !~ '^_')
          ORDER BY (c.relname || '.' || a.attname) COLLATE "C"),
    columns::text[], what)
FROM (VALUES
    ('tap_nobody', '{}', 'a role that was granted nothing can read no column'), ('tap_producer', '{}', 'a producer can read no column'),
    ('tap_worker', '{}', 'a worker can read no column'), ('tap_admin', '{}', 'an admin can read all columns of the public views, and nothing else'),
    ('tap_Reader', '{pgq_batches.ended,pgq_batches.enqueued_at,pgq_batches.failed,pgq_batches.failed_ids,pgq_batches.id,pgq_batches.jobs,pgq_batches.queue,pgq_counters.cancelled,pgq_counters.claimed,pgq_counters.dead,pgq_counters.done,pgq_counters.enqueued,pgq_counters.failed,pgq_counters.kind,pgq_counters.merged,pgq_counters.queue,pgq_counters.ran_seconds,pgq_counters.retried,pgq_counters.timed,pgq_counters.waited_seconds,
                     pgq_jobs.after,pgq_jobs.attempt,pgq_jobs.backoff,pgq_jobs.backoff_cap,pgq_jobs.cancel_requested_at,pgq_jobs.claimed_at,pgq_jobs.dedup,pgq_jobs.ended_at,
                     pgq_jobs.enqueued_at,pgq_jobs.id,pgq_jobs.kind,pgq_jobs.lease_until,pgq_jobs.losses,pgq_jobs.max_retries,pgq_jobs.priority,
                     pgq_jobs.queue,pgq_jobs.ripe_at,pgq_jobs.sensitive,pgq_jobs.state,pgq_jobs.waits_for_signal,pgq_jobs.worker,
                     pgq_needs.job,pgq_needs.needs,
                     pgq_queues.at_limit,pgq_queues.backoff,pgq_queues.backoff_cap,pgq_queues.burst,pgq_queues.groups_at_limit,pgq_queues.keep_cancelled,pgq_queues.keep_dead,pgq_queues.keep_done,pgq_queues.lease,pgq_queues.max_per_group,pgq_queues.max_retries,
                     pgq_queues.max_running,pgq_queues.next_start_at,pgq_queues.on_dead,pgq_queues.ordered,pgq_queues.paused,pgq_queues.paused_groups,pgq_queues.paused_until,
                     pgq_queues.per,pgq_queues.queue,pgq_queues.rate,pgq_queues.rate_per_group,pgq_queues.ripe,pgq_queues.running,pgq_queues.sensitive,pgq_queues.waiting,
                     pgq_schedules.backoff,pgq_schedules.backoff_cap,pgq_schedules.catch_up,pgq_schedules.cron,pgq_schedules.jitter,pgq_schedules.kind,
                     pgq_schedules.last_at,pgq_schedules.last_error_at,pgq_schedules.last_job,pgq_schedules.max_retries,pgq_schedules.missed,
                     pgq_schedules.name,pgq_schedules.next_at,pgq_schedules.overlap,pgq_schedules.paused,pgq_schedules.priority,pgq_schedules.queue,
                     pgq_schedules.sensitive,pgq_schedules.source,pgq_schedules.timezone,
                     pgq_stats.blocked,pgq_stats.cancelled,pgq_stats.dead,pgq_stats.done,pgq_stats.handled,pgq_stats.kind,pgq_stats.oldest_ripe_age,pgq_stats.queue,
                     pgq_stats.ripe,pgq_stats.running,pgq_stats.waiting,
                     pgq_workers.handles,pgq_workers.host,pgq_workers.kinds,pgq_workers.name,pgq_workers.oldest_claimed_at,
                     pgq_workers.overdue,pgq_workers.pid,
                     pgq_workers.present,pgq_workers.queues,pgq_workers.registered_at,pgq_workers.running}', 'a reader can read neither args, dedup_key, errors, result nor context')
) AS t (role, columns, what);

SELECT is_empty(
    format($$ SELECT c.relname FROM pg_class AS c
              WHERE c.relnamespace = quote_ident(current_schema())::regnamespace AND c.relname ~ '^_?pgq_'
                AND CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(%L, c.oid, 'USAGE, SELECT, UPDATE') END $$, role), format('%s may use no sequence', role))
FROM (VALUES ('tap_nobody'), ('tap_producer'), ('tap_worker'), ('tap_admin'), ('tap_Reader')) AS t (role);
SELECT is(
    ARRAY(SELECT a.grantee::regrole::text FROM pg_namespace AS s, aclexplode(s.nspacl) AS a
          WHERE s.nspname = current_schema() AND a.grantee::regrole::text ~ 'tap_' AND a.privilege_type = 'USAGE'
          ORDER BY a.grantee::regrole::text COLLATE "C"),
    '{"\"tap_Reader\"",tap_admin,tap_producer,tap_worker}'::text[], 'every role that was granted something may use the schema');
SELECT is_empty($$
    SELECT p.proname, a.grantee::regrole FROM pg_proc AS p, aclexplode(p.proacl) AS a
    WHERE p.proname ~ '^_?pgq_' AND a.grantee <> p.proowner AND a.is_grantable
    UNION ALL
    SELECT c.relname, a.grantee::regrole FROM pg_class AS c, aclexplode(c.relacl) AS a
    WHERE c.relname ~ '^_?pgq_' AND a.grantee <> c.relowner AND a.is_grantable
$$, 'no role can grant its privileges to others');

-- The calls themselves, with each role.
SET LOCAL ROLE tap_producer;
SELECT * FROM pgq_enqueue('granted', '{"secret": 1}') \gset
SELECT id AS many FROM pgq_enqueue_many('[{"kind": "granted", "args": 2}]') \gset
RESET ROLE;
SELECT is(count(*), 2::bigint, 'a producer can enqueue') FROM pgq_waiting;
SELECT pgq_enqueue('verbs', to_jsonb(n), 'verbs') FROM generate_series(1, 4) AS n;
SET LOCAL ROLE tap_worker;
SELECT pgq_hold(c.id, c.token), pgq_extend(c.id, c.token, '9 minutes'), pgq_complete(c.id, c.token, '"held"') FROM pgq_claim('{verbs}') AS c;
SELECT pgq_complete_many(array_agg(c.id), array_agg(c.token)) FROM pgq_claim('{verbs}') AS c;
SELECT pgq_snooze(c.id, c.token, '2031-01-01 00:00Z') FROM pgq_claim('{verbs}') AS c;
SELECT pgq_release(c.id, c.token) FROM pgq_claim('{verbs}') AS c;
RESET ROLE;
SELECT results_eq($$ SELECT args, state, result FROM pgq_jobs WHERE queue = 'verbs' ORDER BY id $$,
                  $$ VALUES ('1'::jsonb, 'done', '"held"'::jsonb), ('3', 'waiting', NULL), ('4', 'waiting', NULL) $$,
                  'a worker can hold, extend, complete, snooze and release jobs');
SET LOCAL ROLE tap_admin;
SELECT pgq_purge('0');
RESET ROLE;
SELECT is_empty('SELECT FROM pgq_ended', 'an admin can purge');
DELETE FROM pgq_waiting WHERE queue = 'verbs';
SET LOCAL ROLE tap_worker;
SELECT c.id AS id, c.token AS token FROM pgq_claim() AS c \gset
SELECT pgq_fail(:id, :token, 'secret', '1 hour');
RESET ROLE;
SELECT is(errors -> 0 ->> 'error', 'secret', 'a worker can claim and fail jobs') FROM pgq_jobs WHERE id = :id;
SET LOCAL ROLE tap_admin;
SELECT pgq_cancel(:id);
SELECT pgq_retry(:id);
SELECT set_config('tap.seen', (SELECT args::text FROM pgq_jobs WHERE id = :id), true);
RESET ROLE;
SELECT is(current_setting('tap.seen'), '{"secret": 1}', 'an admin can cancel, retry and read args');
SET LOCAL ROLE "tap_Reader";
SELECT set_config('tap.seen', (SELECT string_agg(state, ',') FROM pgq_jobs) || (SELECT sum(ripe) FROM pgq_stats), true);
RESET ROLE;
SELECT is(current_setting('tap.seen'), 'waiting,waiting1', 'a reader can read states and numbers');

-- The roles that run the functions of pgTAP need privileges on it.
GRANT USAGE ON SCHEMA pgtap TO tap_nobody, tap_producer, "tap_Reader";
GRANT USAGE, SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA pg_temp TO tap_nobody, tap_producer, "tap_Reader";
GRANT ALL ON ALL TABLES IN SCHEMA pg_temp TO tap_nobody, tap_producer, "tap_Reader";
-- Without USAGE on the schema, PostgreSQL would deny that first.
SELECT format('GRANT USAGE ON SCHEMA %I TO tap_nobody', current_schema()) \gexec
SET LOCAL ROLE tap_nobody;
SELECT throws_ok(call, '42501', NULL, format('%s is denied to a role that was granted nothing', call))
FROM (VALUES ('SELECT pgq_enqueue(''k'')'), ('SELECT * FROM pgq_waiting'), ('SELECT * FROM pgq_jobs'), ('SELECT nextval(''pgq_token'')')) AS t (call);
SET LOCAL ROLE tap_producer;
SELECT throws_ok(call, '42501', NULL, format('%s is denied to a producer', call))
FROM (VALUES ('SELECT pgq_claim()'), ('SELECT pgq_grant(''tap_producer'', ''admin'')')) AS t (call);
SET LOCAL ROLE "tap_Reader";
SELECT throws_ok('SELECT args FROM pgq_jobs', '42501', NULL, 'args are denied to a reader');
RESET ROLE;

SELECT throws_ok(call, state, message, format('%s is refused', call))
FROM (VALUES ('SELECT pgq_grant(NULL, ''worker'')', '22004', 'role or privilege is null'),
             ('SELECT pgq_grant(''tap_nobody'', NULL)', '22004', 'role or privilege is null'),
             ('SELECT pgq_grant(''tap_nobody'', ''god'')', '22023', 'privilege "god" is unknown'),
             ('SELECT pgq_grant(''tap_noone'', ''worker'')', '42704', 'there is no role "tap_noone"'),
             ('SELECT pgq_grant(''public'', ''worker'')', '42704', 'there is no role "public"')) AS t (call, state, message);

SELECT * FROM finish();
ROLLBACK;
