-- How long jobs are kept that have ended, and that a queue may keep all that is done.
BEGIN;
SELECT plan(55);
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SET LOCAL pgq.jitter = '0';

-- A claim of a new session at a time: it makes one step, if one is due.
CREATE FUNCTION pg_temp.step(at timestamptz) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    v_before bigint := (SELECT count(*) FROM pgq_ended);
BEGIN
    PERFORM set_config('pgq.now', at::text, true);
    PERFORM set_config('pgq.kept_' || 'pgq_head'::regclass::oid, '', true);
    PERFORM set_config(_pgq_head_setting(''), '', true);
    PERFORM set_config(_pgq_bare_setting(), '', true);
    PERFORM pgq_claim('{nowhere}');
    RETURN v_before - (SELECT count(*) FROM pgq_ended);
END
$$;
CREATE FUNCTION pg_temp.ended(queue text, outcome text, at timestamptz, jobs integer DEFAULT 1, apart interval DEFAULT '1 ms') RETURNS void LANGUAGE sql AS $$
    INSERT INTO pgq_ended (id, queue, kind, args, priority, ripe_at, attempt, max_retries, dedup, enqueued_at, outcome, ended_at)
    SELECT nextval('pgq_job_id'), queue, 'k', '{}', 5, at, 1, 0, true, at, outcome, at + n * apart FROM generate_series(1, jobs) AS n
$$;
CREATE FUNCTION pg_temp.left_() RETURNS text LANGUAGE sql AS $$
    SELECT coalesce(string_agg(queue || ' ' || outcome, ', ' ORDER BY queue, outcome), 'none') FROM pgq_ended
$$;

-- The defaults.
SELECT pg_temp.ended('a', outcome, '2030-01-01 12:00Z') FROM unnest('{done,dead,cancelled}'::text[]) AS outcome;
SELECT is(pg_temp.step('2030-01-08 11:59Z'), 0::bigint, 'within a week nothing is deleted');
SELECT is_empty('SELECT FROM pgq_head WHERE queue ~ ''ended''', 'and nothing is written');
SELECT is(pg_temp.step('2030-01-08 12:01Z'), 1::bigint, 'what is done is kept for a week');
SELECT is(pg_temp.left_(), 'a cancelled, a dead', 'the rest is kept for longer');
SELECT is(pg_temp.step('2030-01-31 11:59Z'), 0::bigint, 'up to a month');
SELECT is(pg_temp.step('2030-01-31 12:01Z'), 2::bigint, 'then it is deleted, too');

-- The errors go with the job.
SELECT pgq_enqueue('k', max_retries => 0);
SELECT pgq_fail(id, token, 'why') FROM pgq_claim();
SELECT is(count(*), 1::bigint, 'a dead job has an error') FROM pgq_error;
SELECT is(pg_temp.step('2030-03-03 12:00Z'), 1::bigint, 'the job is deleted');
SELECT is_empty('SELECT FROM pgq_error', 'and its error with it');

-- Settings of a queue, and of all.
SELECT is(pgq_configure('b', '{"keep_done": "1 hour", "keep_dead": "100 years"}'), '{"keep_done": "01:00:00", "keep_dead": "100 years"}', 'a queue has settings of its own');
SELECT is(pgq_configure('', '{"keep_dead": "2 days", "keep_cancelled": "3 days"}'), '{"keep_dead": "2 days", "keep_cancelled": "3 days"}', 'and so have all together');
SELECT results_eq('SELECT queue, keep_done, keep_dead, keep_cancelled FROM pgq_queues', $$ VALUES ('b', interval '1 hour', interval '100 years', NULL::interval) $$, 'the view shows those of queues');
SELECT pg_temp.ended(queue, outcome, '2030-04-01 12:00Z') FROM unnest('{a,b}'::text[]) AS queue CROSS JOIN unnest('{done,dead,cancelled}'::text[]) AS outcome;
SELECT is(pg_temp.step('2030-04-01 12:59Z'), 0::bigint, 'within an hour nothing is deleted');
SELECT is(pg_temp.step('2030-04-01 13:01Z'), 1::bigint, 'the shorter time of a queue counts there');
SELECT is(pg_temp.left_(), 'a cancelled, a dead, a done, b cancelled, b dead', 'and only there');
SELECT is(pg_temp.step('2030-04-03 12:01Z'), 1::bigint, 'the time of all counts for a dead job of a queue without');
SELECT is(pg_temp.step('2030-04-04 12:01Z'), 2::bigint, 'and for cancelled jobs of a queue that sets other times only');
SELECT is(pg_temp.left_(), 'a done, b dead', 'what no time is set for is kept as without settings');
SELECT is(pg_temp.step('2030-04-08 12:01Z'), 1::bigint, 'for a week if it is done');
SELECT is(pg_temp.step('2099-04-08 12:01Z'), 0::bigint, 'a hundred years are longer than the clock goes here');
SELECT pgq_configure('b', '{"keep_dead": "1 hour"}');
SELECT is(pg_temp.step('2099-04-08 12:03Z'), 1::bigint, 'a shorter time holds for jobs that have ended before, too');
SELECT pgq_configure('b', '{"keep_dead": "0"}');
SELECT pg_temp.ended('b', 'dead', '2099-04-08 12:04Z');
SELECT is(pg_temp.step('2099-04-08 12:05Z'), 1::bigint, 'a job may be kept for no time');
SELECT pgq_configure('b', '{"keep_done": null, "keep_dead": null}'), pgq_configure('', '{"keep_dead": null, "keep_cancelled": null}');
SELECT is_empty('SELECT FROM pgq_queue_setting', 'the settings are reset');

-- Which settings are for all queues, and which role sets them.
SELECT throws_ok('SELECT pgq_configure('''', ''{"max_retries": 3}'')', '22023', 'max_retries is set for all queues', 'other settings are for one queue');
SELECT throws_ok(format('SELECT pgq_configure(''q'', %L)', settings), '22023', message, settings || ' is refused')
FROM (VALUES ('{"keep_done": "-1 hour"}', 'keep_done -01:00:00 is out of range'), ('{"keep_dead": "101 years"}', 'keep_dead 101 years is out of range'),
             ('{"keep_cancelled": 7}', 'setting keep_cancelled is not of JSON type string')) AS t (settings, message);
CREATE ROLE tap_admin;
SELECT pgq_grant('tap_admin', 'admin', '{b}');
\ir result.sql
SELECT is(pg_temp.result('tap_admin', 'SELECT pgq_configure('''', ''{"keep_done": "0"}'')'), '42501', 'an admin of some queues sets nothing for all');
SELECT is(pg_temp.result('tap_admin', 'SELECT pgq_configure(''b'', ''{"keep_done": "0"}'')'), '{"keep_done": "00:00:00"}', 'but for its own');

-- A pass of several steps, in which kept jobs lie between.
DELETE FROM pgq_head;
SELECT pg_temp.ended('a', 'done', '2099-01-01 12:00Z', 2500), pg_temp.ended('a', 'dead', '2099-01-01 12:00:00.001Z', 3);
SELECT is(pg_temp.step('2099-01-10 12:00Z'), 997::bigint, 'a step reads a thousand jobs');
SELECT is(pg_temp.step('2099-01-10 12:00Z'), 0::bigint, 'the next one comes a second later');
SELECT is(pg_temp.step('2099-01-10 12:00:01Z'), 1000::bigint, 'and goes on from there');
SELECT is(pg_temp.step('2099-01-10 12:00:02Z'), 503::bigint, 'up to the end');
SELECT is(pg_temp.step('2099-01-10 12:00:03Z'), 0::bigint, 'then there is a pause');
SELECT is(pg_temp.left_(), 'a dead, a dead, a dead', 'what is to be kept is kept');
SELECT results_eq($$ SELECT l.here_id / 86400000000, _pgq_lane_start(l.here_ripe_us) FROM pgq_head, unnest(lanes) AS l WHERE queue ~ 'ended' $$,
                  $$ VALUES (30::bigint, timestamptz '2098-12-11 11:59:57Z'), (7, '2099-01-03 11:59:57Z') $$,
                  'of each time for which jobs are kept, it is known what is deleted, but for the last five seconds');
DELETE FROM pgq_ended;

-- All jobs of one moment are in one step.
DELETE FROM pgq_head;
SELECT pg_temp.ended('a', 'done', '2099-01-01 12:00Z', 1500, '0');
SELECT is(pg_temp.step('2099-01-10 12:00Z'), 1500::bigint, 'a thousand and those that ended with the last of them');

-- A setting that has changed holds for jobs that a step has passed. The lanes then begin where the last of them was.
DELETE FROM pgq_ended;
SELECT pg_temp.ended('a', 'dead', '2099-01-01 12:00Z', 2500), pg_temp.ended('a', 'done', '2099-01-01 12:00:05Z', 1);
SELECT is(pg_temp.step('2099-01-10 12:02Z'), 0::bigint, 'jobs to keep fill a step')
UNION ALL SELECT is(pg_temp.step('2099-01-10 12:02:01Z'), 0::bigint, 'and another one')
UNION ALL SELECT is(pg_temp.step('2099-01-10 12:02:02Z'), 1::bigint, 'and are passed');
SELECT pgq_configure('a', '{"keep_dead": "7 days"}');
SELECT is(pg_temp.step('2099-01-10 12:04:02Z'), 1000::bigint, 'the new time holds for them')
UNION ALL SELECT is(pg_temp.step('2099-01-10 12:04:03Z'), 1000::bigint, 'they are read again, a thousand in a step')
UNION ALL SELECT is(pg_temp.step('2099-01-10 12:04:04Z'), 500::bigint, 'to the end');
SELECT pgq_configure('a', '{"keep_dead": null}');

-- A queue that keeps all that is done, from the next claim on.
SET LOCAL pgq.now = '2099-02-01 12:00Z';
CREATE FUNCTION pg_temp.claimed(queue text) RETURNS SETOF pgq_running LANGUAGE sql AS $$
    SELECT pgq_enqueue('k', queue => queue);
    SELECT c.id FROM pgq_claim(ARRAY[queue], worker => 'w') AS c;
    SELECT r FROM pgq_running AS r WHERE r.queue = claimed.queue;
$$;
SELECT pgq_complete(id, token) FROM pg_temp.claimed('a');
SELECT is(pg_temp.left_(), 'none', 'a job of another queue that is done leaves nothing');
SELECT id AS early, token FROM pg_temp.claimed('c') \gset
SELECT pgq_configure('c', '{"keep_done": "1 day"}');
SELECT pgq_complete(:early, :token);
SELECT is(pg_temp.left_(), 'none', 'nor does one that was claimed before the setting');
SELECT id AS job, token FROM pg_temp.claimed('c') \gset
SET LOCAL pgq.now = '2099-02-01 12:00:07Z';
SELECT pgq_complete(:job, :token);
SELECT results_eq('SELECT state, result, ended_at - claimed_at, worker, errors FROM pgq_jobs',
                  $$ VALUES ('done', NULL::jsonb, interval '7 seconds', 'w', '[]'::jsonb) $$, 'a job of the queue is kept, with its duration');
SELECT is((SELECT state FROM pgq_result(:job)), 'done', 'and is not gone');
DELETE FROM pgq_ended;

-- Completed together, not packed; after an error; with another setting at the end.
SELECT count(pgq_enqueue('k', to_jsonb(n), 'c')) FROM generate_series(1, 12) AS n;
SELECT ids, token FROM pgq_claim_batch('{c}', 100) \gset
SELECT is(count(*), 0::bigint, 'jobs of such a queue are not packed') FROM pgq_running_batch;
SELECT is(count(*), 12::bigint, 'all are completed') FROM pgq_complete_many(:'ids', array_fill(:token::bigint, ARRAY[12]));
SELECT is(count(*), 12::bigint, 'and kept') FROM pgq_ended WHERE newest_error IS NULL;
DELETE FROM pgq_ended;
SELECT pgq_enqueue('k', queue => 'c', backoff => '0');
SELECT pgq_fail(id, token, 'why', '0') FROM pgq_claim('{c}');
SELECT ids, token FROM pgq_claim_batch('{c}', 1) \gset
SELECT is(cardinality(lost), 0, 'a claim settles the one before') FROM pgq_claim_batch('{c}', 0, done_ids => :'ids', done_tokens => ARRAY[:token::bigint]);
SELECT is(errors -> 0 ->> 'error', 'why', 'a job that is kept keeps its errors') FROM pgq_jobs WHERE state = 'done';
DELETE FROM pgq_ended;
SELECT pgq_configure('limited', '{"keep_done": "1 day", "max_running": 1}');
SELECT pgq_complete(id, token) FROM pg_temp.claimed('limited');
SELECT is(count(*), 1::bigint, 'a job that a queue with limits keeps is kept') FROM pgq_ended WHERE queue = 'limited';
DELETE FROM pgq_ended;
SELECT id AS job, token FROM pg_temp.claimed('c') \gset
SELECT is(errors, '[]', 'a job that runs there has no errors') FROM pgq_jobs WHERE id = :job;
SELECT pgq_configure('c', '{"keep_done": null, "max_retries": 3}');
SELECT pgq_complete(:job, :token);
SELECT is(pg_temp.left_(), 'none', 'a setting that is reset counts at the end');

SELECT * FROM finish();
ROLLBACK;
