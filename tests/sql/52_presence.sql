-- Presence: registered workers, and the jobs of workers whose sessions have ended.
BEGIN;
SELECT plan(51);
SET LOCAL pgq.now = '2030-01-01 12:00Z';
-- In the first five seconds after the start of the server no worker counts as gone: wait until they are over.
CREATE FUNCTION pg_temp.claim() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep(greatest(0, extract(epoch FROM pg_postmaster_start_time() + interval '5.1 seconds' - clock_timestamp())));
    PERFORM pgq_claim('{nothing}');
    RETURN (SELECT count(*) FROM pgq_claim('{nothing}'));
END
$$;

SELECT lives_ok($$ SELECT pgq_register('me', '{a,b}', 'here', 7) $$, 'a worker can register');
SELECT results_eq(
    'SELECT name, host, pid, queues, registered_at, present, running, kinds, oldest_claimed_at FROM pgq_workers',
    $$ VALUES ('me', 'here', 7, '{a,b}'::text[], pgq_now(), true, 0::bigint, NULL::text[], NULL::timestamptz) $$, 'pgq_workers shows a registered worker');

SELECT pgq_enqueue(kind, queue => 'a') FROM unnest('{x,y}'::text[]) AS kind;
SELECT count(*) FROM pgq_claim('{a}', 2, worker => 'me');
SELECT results_eq('SELECT running, kinds, oldest_claimed_at FROM pgq_workers', $$ VALUES (2::bigint, '{x,y}'::text[], pgq_now()) $$,
                  'pgq_workers shows the jobs that a worker holds');
SELECT is(overdue, 0::bigint, 'no job is overdue before its lease ends') FROM pgq_workers;
UPDATE pgq_running SET lease_until = pgq_now() - interval '1 second' WHERE kind = 'x';
SELECT is(overdue, 1::bigint, 'pgq_workers counts the jobs whose leases have ended') FROM pgq_workers;
UPDATE pgq_running SET lease_until = pgq_now() + interval '5 minutes' WHERE kind = 'x';
SELECT pgq_enqueue('z', queue => 'b');
SELECT count(*) FROM pgq_claim('{b}', worker => 'stranger');
SELECT results_eq($$ SELECT host, queues, present, running FROM pgq_workers WHERE name = 'stranger' $$,
                  $$ VALUES (NULL::text, NULL::text[], NULL::boolean, 1::bigint) $$, 'pgq_workers shows a worker that holds jobs and never registered');
SELECT pgq_enqueue('z', queue => 'nameless');
SELECT count(*) FROM pgq_claim('{nameless}');
SELECT is(count(*), 2::bigint, 'pgq_workers does not show a worker without a name') FROM pgq_workers;

SET LOCAL pgq.now = '2030-01-01 12:01Z';
SELECT is(pg_temp.claim(), 0::bigint, 'a claim that sweeps the workers returns no job of other queues');
SELECT is(count(*), 4::bigint, 'a present worker keeps its jobs, even when its own session sweeps') FROM pgq_running;
SELECT is(pgq_register('me', '{c}', NULL, NULL)::text, '', 'a session can register its worker again');
SELECT results_eq($$ SELECT host, queues, registered_at FROM pgq_workers WHERE name = 'me' $$,
                  $$ VALUES (NULL::text, '{c}'::text[], timestamptz '2030-01-01 12:00Z') $$, 'a worker that registers again has new values, but its first registered_at');

-- As if the session of the worker had ended.
SELECT is(pg_advisory_unlock('pgq_worker_session'::regclass::oid::integer, number), true, 'a worker that has registered twice holds one lock') FROM pgq_worker_session;
SELECT is(present, false, 'a worker whose session has ended is not present') FROM pgq_workers WHERE name = 'me';
SELECT is(present, NULL::boolean, 'of one that never registered it is not known, also where no worker is present') FROM pgq_workers WHERE name = 'stranger';
SELECT is(pgq_unregister('me'), false, 'a worker that is not present cannot unregister');
SELECT pg_temp.claim();
SELECT results_eq('SELECT kind, state, attempt FROM pgq_jobs ORDER BY id',
                  $$ VALUES ('x', 'waiting', 0), ('y', 'waiting', 0), ('z', 'running', 1), ('z', 'running', 1) $$, 'the jobs of a worker that is gone wait again, and no others');
SELECT is(ripe_at, pgq_now(), 'the jobs of a worker that is gone are ripe at once') FROM pgq_waiting;
SELECT is(errors, '[]', 'jobs that were lost together have no error') FROM pgq_jobs WHERE state = 'waiting';
SELECT is(gone_at, pgq_now(), 'gone_at is the time at which the worker was found gone') FROM pgq_worker_session;
-- A claim of the worker that commits only now.
SELECT count(*) FROM pgq_claim('{a}', 1, worker => 'me');
SET LOCAL pgq.now = '2030-01-01 12:01:09Z';
SELECT pg_temp.claim();
SELECT is(count(*), 2::bigint, 'a job that a dying worker has claimed waits again, too') FROM pgq_waiting;
SELECT is(count(*), 1::bigint, 'a worker that is gone is kept for ten seconds') FROM pgq_worker_session;
SET LOCAL pgq.now = '2030-01-01 12:01:11Z';
SELECT pg_temp.claim();
SELECT is_empty('SELECT FROM pgq_worker_session', 'a worker that is gone is deleted after ten seconds');

-- All sessions are new, as after a cut of all connections.
CREATE FUNCTION pg_temp.claim_anew(at timestamptz) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('pgq.now', at::text, true), set_config(_pgq_head_setting(''), '', true);
    RETURN (SELECT count(*) FROM pgq_claim('{nothing}'));
END
$$;
CREATE TEMP VIEW held AS SELECT count(*) AS jobs FROM pgq_running WHERE worker = 'cut';
SELECT pgq_register('cut');
SELECT pgq_enqueue('c', queue => 'cut');
SELECT count(*) FROM pgq_claim('{cut}', worker => 'cut');
SELECT pg_advisory_unlock('pgq_worker_session'::regclass::oid::integer, number) FROM pgq_worker_session;
SELECT pg_temp.claim_anew('2030-01-01 12:02Z');
SELECT results_eq('SELECT gone_at, jobs FROM pgq_worker_session, held', $$ VALUES (timestamptz '2030-01-01 12:02Z', 1::bigint) $$,
                  'a new session that is the first to find a worker gone only records that');
SELECT pg_temp.claim_anew('2030-01-01 12:02:00.999Z');
SELECT is(jobs, 1::bigint, 'other new sessions leave the worker a second to come back') FROM held;
SELECT pgq_register('cut');
SELECT pg_temp.claim_anew('2030-01-01 12:02:02Z');
SELECT is(jobs, 1::bigint, 'a worker that came back within that second keeps its jobs') FROM held;
SELECT pg_advisory_unlock('pgq_worker_session'::regclass::oid::integer, number) FROM pgq_worker_session;
SELECT pg_temp.claim_anew('2030-01-01 12:02:03Z');
SELECT is(jobs, 1::bigint, 'a worker that is gone again has another second') FROM held;
-- A promotion leaves no row in pgq_head.
DELETE FROM pgq_head;
SELECT pg_temp.claim_anew('2030-01-01 12:02:05Z');
SELECT count(*) FROM pgq_claim('{nothing}');
SELECT is(jobs, 1::bigint, 'for five seconds after a promotion, or a crash, no session takes a worker for gone') FROM held;
UPDATE pgq_head SET due = clock_timestamp() + interval '6 seconds';
SELECT pg_temp.claim_anew('2030-01-01 12:02:05Z');
SELECT is(jobs, 0::bigint, 'where another look was a second ago, a new session sweeps; a promotion that lies ahead does not count') FROM held;
SELECT pg_temp.claim_anew('2030-01-01 12:02:30Z');
SELECT is_empty('SELECT FROM pgq_worker_session', 'new sessions delete a worker that is gone, too');
SELECT set_config('pgq.now', '2030-01-01 12:02:30Z', true);

SELECT pgq_register('back');
SELECT pgq_enqueue('b', queue => 'back');
SELECT c.id, c.token FROM pgq_claim('{back}', worker => 'back') AS c \gset
SELECT pg_advisory_unlock('pgq_worker_session'::regclass::oid::integer, number) FROM pgq_worker_session;
SELECT pgq_register('back');
SELECT pg_temp.claim();
SELECT lives_ok(format('SELECT pgq_complete(%s, %s)', :id, :token), 'a worker that registers again before the next claim keeps its jobs');
SELECT pgq_enqueue(kind, queue => 'own', priority => 1) FROM unnest('{known,unknown}'::text[]) AS kind;
SELECT pgq_enqueue('another', queue => 'other');
SELECT count(*) FROM pgq_claim('{own}', 2, worker => 'back');
SELECT count(*) FROM pgq_claim('{other}', worker => 'front');
SELECT is(pgq_reconcile('back', ARRAY(SELECT id FROM pgq_running WHERE kind = 'known'), ARRAY(SELECT token FROM pgq_running WHERE kind = 'known')), 1::bigint, 'pgq_reconcile gives back the job that the worker does not know of');
SELECT results_eq($$ SELECT kind, state, attempt, ripe_at, jsonb_array_length(errors) FROM pgq_jobs WHERE queue IN ('own', 'other') ORDER BY kind $$,
                  $$ VALUES ('another', 'running', 1, pgq_now(), 0), ('known', 'running', 1, pgq_now(), 0), ('unknown', 'waiting', 0, pgq_now(), 0) $$,
                  'a job that was given back is as if never claimed; jobs that the worker knows, and those of other workers, still run');
SELECT throws_ok($$ SELECT pgq_reconcile('back', '{}', NULL) $$, '22004', 'ids or tokens is null', 'pgq_reconcile refuses NULL for tokens');
SELECT throws_ok($$ SELECT pgq_reconcile('front', '{}', '{}') $$, 'PGQ03', 'worker "front" is not registered by this session', 'pgq_reconcile refuses a worker that this session has not registered');
SELECT throws_ok($$ SELECT pgq_reconcile(NULL, '{}', '{}') $$, 'PGQ03', NULL, 'pgq_reconcile refuses NULL for the worker');
SELECT is(pgq_unregister('back'), true, 'a worker can unregister');
SELECT is_empty('SELECT FROM pgq_worker_session', 'a worker that has unregistered has no row');
SELECT is_empty('SELECT FROM _pgq_presence', 'a worker that has unregistered holds no lock');
SELECT pgq_register('all', '{}');
SELECT pgq_register('all', '{a,b}');
SELECT results_eq($$ SELECT queues, present FROM pgq_workers WHERE name = 'all' $$, $$ VALUES ('{a,b}'::text[], true) $$, 'a worker that knew no queue can register again with those that it has found');
SELECT is(pgq_unregister('all'), true, 'a worker that has registered twice unregisters once');
SELECT is_empty('SELECT FROM _pgq_presence', 'then it holds no lock');
SELECT is(pgq_unregister(NULL), false, 'pgq_unregister returns false for NULL');

SELECT throws_ok(call, state, message, message)
FROM (VALUES
    ('SELECT pgq_register(NULL)', '22004', 'worker is null'),
    ('SELECT pgq_register('''')', '22023', 'worker is empty, or worker or host takes more than 200 bytes'),
    ('SELECT pgq_register(repeat(''x'', 201))', '22023', 'worker is empty, or worker or host takes more than 200 bytes'),
    ('SELECT pgq_register(''x'', ''{a}'', repeat(''x'', 201))', '22023', 'worker is empty, or worker or host takes more than 200 bytes'),
    ('SELECT pgq_register(''x'', NULL)', '22004', 'queues, or one of them, is null'),
    ('SELECT pgq_register(''x'', shares => NULL)', '22004', 'shares is null')
) AS t (call, state, message);
SELECT is_empty('SELECT FROM pgq_worker_session', 'a refused registration leaves no row');

SELECT * FROM finish();
ROLLBACK;
