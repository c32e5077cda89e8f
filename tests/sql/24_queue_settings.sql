-- What pgq_configure sets, and that a paused queue or group is not claimed.
BEGIN;
SELECT plan(79);
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SET LOCAL pgq.jitter = '0';
SELECT setval('pgq_mark', 0);

-- Keys that are given are set, null resets one, and the result is what is set.
SELECT is(pgq_configure('q'), '{}', 'a queue has no settings at first');
SELECT is(_pgq_marks(), 0::bigint, 'to look at them marks no queue');
SELECT is(pgq_configure('q', '{"max_running": 3, "backoff": "90 s"}'), '{"max_running": 3, "backoff": "00:01:30"}', 'keys are set');
SELECT is(_pgq_marks(), _pgq_mark_of('q'), 'the queue is marked');
SELECT is(pgq_configure('q', '{"max_running": null, "lease": "2 hours"}'), '{"backoff": "00:01:30", "lease": "02:00:00"}', 'null resets a key');
SET LOCAL intervalstyle = 'iso_8601';
SELECT is(pgq_configure('q'), '{"backoff": "00:01:30", "lease": "02:00:00"}', 'the result does not depend on the style of intervals');
SET LOCAL intervalstyle = 'postgres';
SELECT results_eq(
    'SELECT queue, paused, waiting, max_running, backoff, lease FROM pgq_queues',
    $$VALUES ('q', false, 0::bigint, NULL::integer, interval '90 s', interval '2 hours')$$, 'the view shows them');
SELECT is(pgq_configure('q', '{"backoff": null, "lease": null}'), '{}', 'all are reset');
SELECT is_empty('SELECT FROM pgq_queue_setting', 'and nothing is left of them');
SELECT is(pgq_configure('q', '{"max_running": 1, "max_per_group": 1, "ordered": true, "on_dead": "stop", "rate": 1, "per": "1 ms", "burst": 1, "rate_per_group": 1,
                               "max_retries": 0, "backoff": "0", "backoff_cap": "100 years", "lease": "1 year",
                               "keep_done": "0", "keep_dead": "100 years", "keep_cancelled": "1 day", "sensitive": true}') - 'backoff_cap',
          '{"max_running": 1, "max_per_group": 1, "ordered": true, "on_dead": "stop", "rate": 1, "per": "00:00:00.001", "burst": 1, "rate_per_group": 1,
            "max_retries": 0, "backoff": "00:00:00", "lease": "1 year", "keep_done": "00:00:00", "keep_dead": "100 years", "keep_cancelled": "1 day", "sensitive": true}', 'these are all keys, at their limits');
DELETE FROM pgq_queue_setting;

-- What sensitive hides is for the programs to leave out: an SQL query of an admin asks.
SELECT pgq_enqueue('k', '{"pin": 1}', 'secrets'), pgq_schedule('s', '@daily', 'k', '{"pin": 1}', queue => 'secrets');
SELECT is(pgq_configure('secrets', '{"sensitive": true}'), '{"sensitive": true}', 'a queue can be made sensitive');
SELECT results_eq('SELECT queue, sensitive FROM pgq_queues', $$VALUES ('secrets', true)$$, 'pgq_queues shows it');
SELECT results_eq('SELECT args, sensitive FROM pgq_jobs', $$VALUES ('{"pin": 1}'::jsonb, true)$$, 'pgq_jobs shows it, and the arguments to an admin');
SELECT results_eq('SELECT args, sensitive FROM pgq_schedules', $$VALUES ('{"pin": 1}'::jsonb, true)$$, 'and so does pgq_schedules');
SELECT pgq_configure('secrets', '{"sensitive": null}');
SELECT results_eq('SELECT sensitive FROM pgq_jobs UNION ALL SELECT sensitive FROM pgq_schedules', 'VALUES (false), (false)', 'other queues are not');
SELECT pgq_unschedule('s');
DELETE FROM pgq_waiting;

SELECT throws_ok(format('SELECT pgq_configure(%L, %L)', queue, settings), state, message, format('%s is refused', settings))
FROM (VALUES
    (NULL, '{}', '22004', 'queue is null'),
    (repeat('x', 201), '{}', '22023', format('queue "%s" is not a name', repeat('x', 200))),
    ('q', NULL, '22004', 'settings is null'),
    ('q', '[]', '22023', 'settings is not an object but of JSON type array'),
    ('q', '{"max_runing": 1}', '22023', 'setting "max_runing" is unknown'),
    ('q', '{"queue": "a"}', '22023', 'setting "queue" is unknown'),
    ('q', '{"max_running": "1"}', '22023', 'setting max_running is not of JSON type number'),
    ('q', '{"sensitive": "yes"}', '22023', 'setting sensitive is not of JSON type boolean'),
    ('', '{"sensitive": true}', '22023', 'sensitive is set for all queues'),
    ('q', '{"max_running": 0}', '22023', 'max_running 0 is out of range'),
    ('q', '{"rate": -1, "per": "1 s"}', '22023', 'rate -1 is out of range'),
    ('q', '{"max_running": 1.5}', '22P02', NULL),
    ('q', '{"max_running": 2147483648}', '22003', NULL),
    ('q', '{"max_retries": -1}', '22023', 'max_retries -1 is out of range'),
    ('q', '{"lease": "0"}', '22023', 'lease 00:00:00 is out of range'),
    ('q', '{"lease": "soon"}', '22007', NULL),
    ('q', '{"lease": "24000 months -719999 days"}', '22023', NULL),
    ('q', '{"backoff": "101 years"}', '22023', 'backoff 101 years is out of range'),
    ('q', '{"per": "0"}', '22023', 'per 00:00:00 is out of range'),
    ('q', '{"rate": 1}', '22023', 'rate or rate_per_group is set without per'),
    ('q', '{"ordered": true, "on_dead": "explode"}', '22023', 'on_dead "explode" is unknown'),
    ('q', '{"on_dead": "stop"}', '22023', 'on_dead is set, but the queue is not ordered'),
    ('q', '{"ordered": true, "max_per_group": 2}', '22023', 'max_per_group is 2, but the queue is ordered')
) AS bad (queue, settings, state, message);
SELECT is_empty('SELECT FROM pgq_queue_setting', 'what is refused leaves nothing behind');

-- Defaults of the queue count when the job is claimed, and only where the job has none of its own.
SELECT pgq_configure('q', '{"max_retries": 3, "backoff": "7 s", "backoff_cap": "8 s", "lease": "1 hour"}');
SELECT pgq_enqueue('default', queue => 'q', dedup => false), pgq_enqueue('own', queue => 'q', max_retries => 1, backoff => '1 s', backoff_cap => '2 s'),
       pgq_enqueue('plain', queue => 'plain');
CREATE TEMP TABLE shown AS SELECT kind, max_retries, backoff, backoff_cap FROM pgq_jobs;
SELECT set_eq('SELECT * FROM shown', $$VALUES ('default', 3, interval '7 s', interval '8 s'), ('own', 1, '1 s', '2 s'), ('plain', 10, '1 minute', '1 hour')$$,
              'a waiting job has the defaults of its queue, its own, or those of all');
SELECT set_eq($$SELECT kind, max_retries, lease_until FROM pgq_claim('{plain,q}', 10)$$,
              $$VALUES ('default', 3, timestamptz '2030-01-01 13:00Z'), ('own', 1, '2030-01-01 13:00Z'), ('plain', 10, '2030-01-01 13:00Z')$$,
              'so it is claimed, for the longest lease of the queues');
SELECT set_eq('SELECT kind, max_retries, backoff, backoff_cap FROM pgq_jobs', 'SELECT * FROM shown', 'and runs');

-- What has run once keeps the defaults of all on each way back, whatever its queue gets meanwhile.
SELECT pgq_enqueue('dead', queue => 'plain');
SELECT pgq_claim('{plain}');
SELECT pgq_configure('plain', '{"backoff": "5 s", "backoff_cap": "5 s"}');
CREATE TEMP VIEW own AS SELECT kind, state, backoff, backoff_cap FROM pgq_jobs WHERE queue = 'plain';
SELECT pgq_release(id, token) FROM pgq_running WHERE kind = 'plain';
SELECT set_eq('SELECT * FROM own', $$VALUES ('plain', 'waiting', interval '1 minute', interval '1 hour'), ('dead', 'running', '1 minute', '1 hour')$$, 'a release keeps them');
SELECT pgq_fail(id, token, retry => false) FROM pgq_running WHERE kind = 'dead';
SELECT set_eq('SELECT * FROM own', $$VALUES ('plain', 'waiting', interval '1 minute', interval '1 hour'), ('dead', 'dead', '1 minute', '1 hour')$$, 'so does the end');
SELECT pgq_retry(id) FROM pgq_ended;
SELECT set_eq('SELECT * FROM own', $$VALUES ('plain', 'waiting', interval '1 minute', interval '1 hour'), ('dead', 'waiting', '1 minute', '1 hour')$$, 'and a retry by hand');
DELETE FROM pgq_waiting;
-- A twin that has taken over an attempt runs its second one with the defaults of all.
SELECT pgq_enqueue('twin', queue => 'twins');
UPDATE pgq_waiting SET attempt = 1;
SELECT pgq_claim('{twins}', lease => '1 minute');
SET LOCAL pgq.now = '2030-01-01 12:02Z';
SELECT pgq_claim('{twins}');
SELECT is(ripe_at, timestamptz '2030-01-01 12:03Z', 'so is a lost job delayed') FROM pgq_waiting;
SET LOCAL pgq.now = '2030-01-01 12:00Z';
DELETE FROM pgq_waiting;
SELECT pgq_enqueue('default', jsonb_build_object('n', n), 'q') FROM generate_series(1, 9) AS n;
SELECT results_eq($$SELECT max_retries, lease_until FROM pgq_claim_batch('{q}', 9)$$, $$VALUES (array_fill(3, '{9}'), timestamptz '2030-01-01 13:00Z')$$, 'a packed job has them, too');
SELECT pgq_enqueue('default', queue => 'q');
SELECT results_eq($$SELECT max_retries, lease_until FROM pgq_claim_batch('{q}', 1)$$, $$VALUES ('{3}'::integer[], timestamptz '2030-01-01 13:00Z')$$, 'so has one that is claimed alone');
SELECT pgq_cancel(id) FROM pgq_enqueue('cancelled', queue => 'q');
SELECT is(max_retries, 3, 'a job that is cancelled while it waits has them, too') FROM pgq_ended;
DELETE FROM pgq_running;
DELETE FROM pgq_running_batch;
DELETE FROM pgq_ended;
DELETE FROM pgq_queue_setting;

-- A paused queue is not claimed, and a session that sleeps for it does not wake.
SELECT pgq_enqueue('k', queue => 'q'), pgq_enqueue('k', queue => 'other');
SELECT pgq_pause('q', '2030-01-01 12:10Z');
SELECT is(array_agg(queue), '{other}', 'of two queues, the paused one is not claimed') FROM pgq_claim('{q,other}', 10);
SELECT is(pgq_ripe_in('{q}'), interval '10 minutes', 'its jobs are ripe when the pause ends');
SELECT is(ripe_in, interval '10 minutes', 'so pgq_remaining says') FROM pgq_remaining('{q}');
SELECT pgq_pause('q', '2030-01-01 12:05Z');
SELECT is(pgq_ripe_in('{q}'), interval '10 minutes', 'a shorter pause does not shorten it');
SELECT results_eq($$SELECT paused, paused_until, waiting FROM pgq_queues WHERE queue = 'q'$$, $$VALUES (true, timestamptz '2030-01-01 12:10Z', 1::bigint)$$, 'the view shows it');
SELECT pgq_pause('q');
SELECT is(pgq_ripe_in('{q}'), NULL::interval, 'without a time it lasts until the queue is resumed');
SELECT is(ripe_in, NULL::interval, 'and the jobs do not count as remaining') FROM pgq_remaining('{q}');
SELECT results_eq($$SELECT paused, paused_until FROM pgq_queues WHERE queue = 'q'$$, $$VALUES (true, NULL::timestamptz)$$, 'the view shows that, too');
SELECT is(pgq_resume('q'), true, 'it is resumed');
SELECT is(pgq_resume('q'), false, 'once');
SELECT pgq_pause('q', '2030-01-01 12:10Z');
SET LOCAL pgq.now = '2030-01-01 12:10Z';
SELECT is(pgq_resume('q'), false, 'a pause whose time is over has ended');
SELECT pgq_pause('q', '2030-01-01 12:20Z');
SET LOCAL pgq.now = '2030-01-01 12:20Z';
SELECT is(count(*), 1::bigint, 'and the queue is claimed again') FROM pgq_claim('{q}');

-- So is a group.
SELECT pgq_enqueue('k', to_jsonb(g), 'q', group_key => g) FROM unnest('{a,b}'::text[]) AS g;
SELECT pgq_pause('q', '2030-01-01 12:30Z', 'a');
SELECT results_eq($$SELECT paused, paused_groups FROM pgq_queues WHERE queue = 'q'$$, 'VALUES (false, 1::bigint)', 'the view counts paused groups');
SELECT is(array_agg(group_key), '{b}', 'of two groups, the paused one is not claimed') FROM pgq_claim('{q}', 10);
SELECT is(pgq_ripe_in('{q}'), interval '10 minutes', 'its jobs are ripe when its pause ends');
SELECT is(ripe_in, interval '10 minutes', 'so pgq_remaining says') FROM pgq_remaining('{q}');
SELECT is(pgq_resume('q'), false, 'to resume the queue does not resume the group');
SELECT is(pgq_resume('q', 'a'), true, 'it is resumed by itself');
SELECT is(array_agg(group_key), '{a}', 'and claimed') FROM pgq_claim('{q}', 10);

SELECT throws_ok(call, state, message, format('%s is refused', call))
FROM (VALUES
    ('SELECT pgq_pause(NULL)', '22004', 'queue is null'),
    ('SELECT pgq_pause('''')', '22023', 'queue "" is not a name'),
    ('SELECT pgq_pause(''q'', group_key => '''')', '22023', 'group_key "" is not a name'),
    ('SELECT pgq_pause(''q'', ''infinity'')', '22008', 'until infinity is out of range'),
    ('SELECT pgq_resume(NULL)', '22004', 'queue is null'),
    ('SELECT pgq_resume(''q'', '''')', '22023', 'group_key "" is not a name')
) AS bad (call, state, message);

-- A pause removes those of the queue whose time is over.
SELECT pgq_pause('q', '2030-01-01 12:21Z', 'g' || n) FROM generate_series(1, 3) AS n;
SET LOCAL pgq.now = '2030-01-01 12:22Z';
SELECT pgq_pause('q', '2030-01-01 12:30Z', 'new');
SELECT results_eq('SELECT group_key FROM pgq_paused', $$VALUES ('new')$$, 'pauses that are over are removed');

-- A handler that keeps its whole group waiting.
DELETE FROM pgq_waiting;
DELETE FROM pgq_running;
DELETE FROM pgq_paused;
SELECT pgq_enqueue('k', to_jsonb(n), 's', group_key => CASE WHEN n < 3 THEN 'a' ELSE 'b' END) FROM generate_series(1, 3) AS n;
SELECT id AS id, token AS token FROM pgq_claim('{s}') \gset
SELECT is(pgq_snooze(:id, :token, delay => '1 minute', whole_group => NULL), 'snoozed', 'NULL for whole_group means false');
SELECT is(count(*), 0::bigint, 'the group is not paused then') FROM pgq_paused;
DELETE FROM pgq_waiting;
SELECT pgq_enqueue('k', to_jsonb(n), 's', group_key => CASE WHEN n < 3 THEN 'a' ELSE 'b' END) FROM generate_series(1, 3) AS n;
SELECT id AS id, token AS token, group_key AS key FROM pgq_claim('{s}') \gset
SELECT is(pgq_snooze(:id, :token, delay => '1 minute', whole_group => true), 'snoozed', 'a job is snoozed with its group');
SELECT results_eq(
    'SELECT group_key, until FROM pgq_paused', format('VALUES (%L, %L::timestamptz)', :'key', pgq_now() + '1 minute'),
    'no job of the group is claimed meanwhile');

SELECT * FROM finish();
ROLLBACK;
