-- pgq_tap.sql: each assertion passes and fails as it should, and shows what it has found.
BEGIN;
\ir ../../python/src/pgq/pgq_tap.sql
SELECT plan(43);
SET LOCAL TimeZone = 'UTC';
SET LOCAL pgq.now = '2030-01-01 12:00Z';
ALTER SEQUENCE pgq_job_id RESTART 1;

SELECT * FROM check_test(pgq_drained_ok(), true, 'drained without jobs', 'no job is ripe or runs');
SELECT * FROM check_test(pgq_not_enqueued_ok(), true, 'not enqueued without jobs', 'no job waits');
SELECT * FROM check_test(
    pgq_enqueued_ok('mail'), false, 'enqueued without jobs', 'a job of kind mail waits',
    E'no job of kind mail waits; all jobs:\n  no job');

SELECT pgq_enqueue('mail', '{"to": "bob", "copies": [1, 2]}', delay => '2 hours'),
       pgq_enqueue('mail', '{"to": "ann"}', queue => 'slow'),
       pgq_enqueue('scan', '7', queue => 'slow', max_retries => 0);

SELECT * FROM check_test(pgq_enqueued_ok('mail'), true, 'enqueued');
SELECT * FROM check_test(
    pgq_enqueued_ok('mail', '{"to": "bob"}', 'default'), true, 'enqueued, with a part of the args',
    'a job of kind mail with {"to": "bob"} in queue default waits');
SELECT * FROM check_test(
    pgq_enqueued_ok('mail', '{"to": "bob"}', 'slow', 'bob gets a mail'), false, 'enqueued in another queue',
    'bob gets a mail',
    E'no job of kind mail with {"to": "bob"} in queue slow waits; all jobs:\n'
    '  1 mail {"to": "bob", "copies": [1, 2]}: waiting in queue default, ripe at 2030-01-01 14:00:00+00, attempt 0\n'
    '  2 mail {"to": "ann"}: waiting in queue slow, ripe at 2030-01-01 12:00:00+00, attempt 0\n'
    '  3 scan 7: waiting in queue slow, ripe at 2030-01-01 12:00:00+00, attempt 0');
SELECT * FROM check_test(
    pgq_not_enqueued_ok('mail', '{"to": "ann"}'), false, 'not enqueued beside a job',
    'no job of kind mail with {"to": "ann"} waits',
    E'what waits:\n  2 mail {"to": "ann"}: waiting in queue slow, ripe at 2030-01-01 12:00:00+00, attempt 0');
SELECT * FROM check_test(pgq_not_enqueued_ok('mail', '{"to": "cleo"}'), true, 'not enqueued with other args');

SELECT * FROM check_test(
    pgq_ripe_at_is('mail', '2030-01-01 14:00Z', '{"to": "bob"}'), true, 'ripe at',
    'the job of kind mail with {"to": "bob"} is ripe at 2030-01-01 14:00:00+00');
SELECT * FROM check_test(
    pgq_ripe_at_is('mail', '2030-01-01 15:00Z', queue => 'default'), false, 'ripe at another time',
    'the job of kind mail in queue default is ripe at 2030-01-01 15:00:00+00',
    E'one job of kind mail in queue default should be ripe at 2030-01-01 15:00:00+00; what waits:\n'
    '  1 mail {"to": "bob", "copies": [1, 2]}: waiting in queue default, ripe at 2030-01-01 14:00:00+00, attempt 0');
SELECT * FROM check_test(pgq_ripe_at_is('mail', '2030-01-01 14:00Z'), false, 'ripe at, of two jobs');
SELECT * FROM check_test(pgq_ripe_at_is('none', '2030-01-01 14:00Z'), false, 'ripe at, of no job');

SELECT * FROM check_test(pgq_drained_ok('default'), true, 'drained beside a job that is ripe later');
SELECT is(pgq_travel('2 hours'), '# it is 2030-01-01 14:00:00+00', 'pgq_travel returns the time as a comment');
SELECT is(pgq_now(), '2030-01-01 14:00Z', 'pgq_travel moves the clock');
SELECT * FROM check_test(
    pgq_drained_ok('default'), false, 'drained beside a ripe job', 'no job in queue default is ripe or runs',
    E'it is 2030-01-01 14:00:00+00; what is ripe or runs:\n'
    '  1 mail {"to": "bob", "copies": [1, 2]}: waiting in queue default, ripe at 2030-01-01 14:00:00+00, attempt 0');
SELECT count(*) FROM pgq_claim('{default}');
SELECT * FROM check_test(pgq_drained_ok('default'), false, 'drained beside a job that runs');
SELECT * FROM check_test(pgq_not_enqueued_ok('mail', queue => 'default'), true, 'not enqueued beside a job that runs');

SELECT count(pgq_fail(id, token, E'no paper\nat all')) FROM pgq_claim('{slow}', 2);
SELECT * FROM check_test(pgq_dead_ok('scan'), true, 'dead', 'a job of kind scan is dead');
SELECT * FROM check_test(pgq_dead_ok('scan', '7', 'paper'), true, 'dead of an error');
SELECT * FROM check_test(
    pgq_dead_ok('scan', '7', 'ink'), false, 'dead of another error', 'a job of kind scan with 7 is dead of ''ink''',
    E'no job of kind scan with 7 is dead of ''ink''; all such jobs:\n'
    '  3 scan 7: dead in queue slow, ripe at 2030-01-01 12:00:00+00, attempt 1\n    no paper');
SELECT * FROM check_test(pgq_dead_ok('mail', '{"to": "ann"}'), false, 'dead, of a job that is retried');

SELECT count(*) FROM generate_series(1, 12) AS i, pgq_enqueue('many', to_jsonb(i), queue => 'many');
SELECT * FROM check_test(
    pgq_not_enqueued_ok(queue => 'many'), false, 'ten jobs are shown at most', 'no job in queue many waits',
    (SELECT E'what waits:\n' || string_agg(format(
         '  %s many %s: waiting in queue many, ripe at 2030-01-01 14:00:00+00, attempt 0', i + 3, i), E'\n' ORDER BY i)
     FROM generate_series(1, 10) AS i) || E'\n  and 2 more');

CREATE ROLE pgq_tap_stranger;
GRANT USAGE ON SCHEMA public, pgtap TO pgq_tap_stranger;
SET LOCAL ROLE pgq_tap_stranger;
SELECT is(count(*), 12::bigint, 'a role without privileges sees all jobs here') FROM _pgq_tap_jobs('many', NULL, NULL);

SELECT * FROM finish();
ROLLBACK;
