-- Workers that are there, and the jobs of those that are not.
BEGIN;
SELECT plan(38);
SET LOCAL pgq.now = '2030-01-01 12:00Z';
-- The server of this test may be younger than five seconds, in which nobody counts as gone.
CREATE FUNCTION pg_temp.claim() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep(greatest(0, extract(epoch FROM pg_postmaster_start_time() + interval '5.1 seconds' - clock_timestamp())));
    PERFORM pgq_claim('{nothing}');
    RETURN (SELECT count(*) FROM pgq_claim('{nothing}'));
END
$$;

SELECT lives_ok($$ SELECT pgq_register('me', '{a,b}', 'here', 7) $$, 'a worker registers');
SELECT results_eq(
    'SELECT name, host, pid, queues, registered_at, present, running, kinds, oldest_claimed_at FROM pgq_workers',
    $$ VALUES ('me', 'here', 7, '{a,b}'::text[], pgq_now(), true, 0::bigint, NULL::text[], NULL::timestamptz) $$, 'and is seen');

SELECT pgq_enqueue(kind, queue => 'a') FROM unnest('{x,y}'::text[]) AS kind;
SELECT count(*) FROM pgq_claim('{a}', 2, worker => 'me');
SELECT results_eq('SELECT running, kinds, oldest_claimed_at FROM pgq_workers', $$ VALUES (2::bigint, '{x,y}'::text[], pgq_now()) $$,
                  'with what it runs');
SELECT pgq_enqueue('z', queue => 'b');
SELECT count(*) FROM pgq_claim('{b}', worker => 'stranger');
SELECT results_eq($$ SELECT host, queues, present, running FROM pgq_workers WHERE name = 'stranger' $$,
                  $$ VALUES (NULL::text, NULL::text[], NULL::boolean, 1::bigint) $$, 'also one that never registered');
SELECT pgq_enqueue('z', queue => 'nameless');
SELECT count(*) FROM pgq_claim('{nameless}');
SELECT is(count(*), 2::bigint, 'but no nameless one') FROM pgq_workers;

SET LOCAL pgq.now = '2030-01-01 12:01Z';
SELECT is(pg_temp.claim(), 0::bigint, 'whoever claims looks after the workers');
SELECT is(count(*), 4::bigint, 'one that is there keeps its jobs, even where its own session does that') FROM pgq_running;
SELECT is(pgq_register('me', '{c}', NULL, NULL)::text, '', 'who registers again is the same worker');
SELECT results_eq($$ SELECT host, queues, registered_at FROM pgq_workers WHERE name = 'me' $$,
                  $$ VALUES (NULL::text, '{c}'::text[], timestamptz '2030-01-01 12:00Z') $$, 'with its new particulars');

-- As if its session had ended.
SELECT is(pg_advisory_unlock('pgq_worker_session'::regclass::oid::integer, number), true, 'one lock is all there was') FROM pgq_worker_session;
SELECT is(present, false, 'a worker whose session is gone is not there') FROM pgq_workers WHERE name = 'me';
SELECT is(pgq_unregister('me'), false, 'nor can it leave');
SELECT pg_temp.claim();
SELECT results_eq('SELECT kind, state, attempt FROM pgq_jobs ORDER BY id',
                  $$ VALUES ('x', 'waiting', 1), ('y', 'waiting', 1), ('z', 'running', 1), ('z', 'running', 1) $$, 'its jobs are ripe, and no other ones');
SELECT is(ripe_at, pgq_now(), 'at once') FROM pgq_waiting;
SELECT is(errors #>> '{0,error}', 'the worker is gone', 'with the reason') FROM pgq_waiting;
SELECT is(gone_at, pgq_now(), 'it is noted when that was seen') FROM pgq_worker_session;
-- A claim of its that commits only now.
SELECT count(*) FROM pgq_claim('{a}', 1, worker => 'me');
SET LOCAL pgq.now = '2030-01-01 12:01:09Z';
SELECT pg_temp.claim();
SELECT is(count(*), 2::bigint, 'what it claims while it dies is not its own for long') FROM pgq_waiting;
SELECT is(count(*), 1::bigint, 'so it is kept for a while') FROM pgq_worker_session;
SET LOCAL pgq.now = '2030-01-01 12:01:11Z';
SELECT pg_temp.claim();
SELECT is_empty('SELECT FROM pgq_worker_session', 'and then forgotten');

SELECT pgq_register('back');
SELECT pgq_enqueue('b', queue => 'back');
SELECT c.id, c.token FROM pgq_claim('{back}', worker => 'back') AS c \gset
SELECT pg_advisory_unlock('pgq_worker_session'::regclass::oid::integer, number) FROM pgq_worker_session;
SELECT pgq_register('back');
SELECT pg_temp.claim();
SELECT lives_ok(format('SELECT pgq_complete(%s, %s)', :id, :token), 'who comes back in time keeps its jobs');
SELECT pgq_enqueue(kind, queue => 'own', priority => 1) FROM unnest('{known,unknown}'::text[]) AS kind;
SELECT pgq_enqueue('another', queue => 'other');
SELECT count(*) FROM pgq_claim('{own}', 2, worker => 'back');
SELECT count(*) FROM pgq_claim('{other}', worker => 'front');
SELECT is(pgq_reconcile('back', ARRAY(SELECT id FROM pgq_running WHERE kind = 'known'), ARRAY(SELECT token FROM pgq_running WHERE kind = 'known')), 1::bigint, 'a worker disowns what it does not know of');
SELECT results_eq($$ SELECT kind, state, attempt, ripe_at, jsonb_array_length(errors) FROM pgq_jobs WHERE queue IN ('own', 'other') ORDER BY kind $$,
                  $$ VALUES ('another', 'running', 1, pgq_now(), 0), ('known', 'running', 1, pgq_now(), 0), ('unknown', 'waiting', 0, pgq_now(), 0) $$,
                  'which is as if it had not been claimed; what it knows, and what others have, stays');
SELECT throws_ok($$ SELECT pgq_reconcile('back', '{}', NULL) $$, '22004', 'ids or tokens is null', 'but not by a slip');
SELECT throws_ok($$ SELECT pgq_reconcile('front', '{}', '{}') $$, 'PGQ03', 'worker "front" is not registered by this session', 'nor for others');
SELECT throws_ok($$ SELECT pgq_reconcile(NULL, '{}', '{}') $$, 'PGQ03', NULL, 'nor for nobody');
SELECT is(pgq_unregister('back'), true, 'a worker leaves');
SELECT is_empty('SELECT FROM pgq_worker_session', 'and is not there any more');
SELECT is_empty('SELECT FROM _pgq_presence', 'nor is its lock');
SELECT is(pgq_unregister(NULL), false, 'nobody has no name');

SELECT throws_ok(call, state, message, message)
FROM (VALUES
    ('SELECT pgq_register(NULL)', '22004', 'worker is null'),
    ('SELECT pgq_register('''')', '22023', 'worker is empty, or worker or host takes more than 200 bytes'),
    ('SELECT pgq_register(repeat(''x'', 201))', '22023', 'worker is empty, or worker or host takes more than 200 bytes'),
    ('SELECT pgq_register(''x'', ''{a}'', repeat(''x'', 201))', '22023', 'worker is empty, or worker or host takes more than 200 bytes'),
    ('SELECT pgq_register(''x'', ''{}'')', '22023', 'queues is empty'),
    ('SELECT pgq_register(''x'', NULL)', '22004', 'queues, or one of them, is null')
) AS t (call, state, message);
SELECT is_empty('SELECT FROM pgq_worker_session', 'who is refused is not there');

SELECT * FROM finish();
ROLLBACK;
