-- pgq_remaining: whether jobs wait or run. pgq_ripe_in: when the next one is ripe.
BEGIN;
SELECT plan(18);
SET LOCAL pgq.now = '2030-01-01 12:00Z';

CREATE FUNCTION pg_temp.remaining(queues text[]) RETURNS text LANGUAGE sql AS $$
    SELECT r::text FROM pgq_remaining(queues) AS r
$$;
SELECT is(pg_temp.remaining('{default}'), '(,f)', 'without jobs, none waits and none runs');
SELECT pgq_enqueue('k', delay => '1 hour', priority => 0), pgq_enqueue('l', delay => '1 minute'), pgq_enqueue('m', queue => 'other');
SELECT is(pg_temp.remaining('{default}'), '(00:01:00,f)', 'the job that is ripe first counts, whatever its priority');
SELECT is(pg_temp.remaining('{default,other}'), '(00:00:00,f)', 'the job that is ripe first counts, whatever its queue');
SET LOCAL pgq.now = '2030-01-01 12:02Z';
SELECT is(pg_temp.remaining('{default}'), '(-00:01:00,f)', 'ripe_in is negative for a job that has been ripe for some time');
SELECT count(*) FROM pgq_claim('{default,other}', 2);
SELECT is(pg_temp.remaining('{default}'), '(00:58:00,t)', 'a claimed job runs');
SELECT is(pg_temp.remaining('{nothing}'), '(,f)', 'a job of another queue does not count');
SELECT pgq_enqueue('other kind', queue => 'mixed'), pgq_enqueue('mine', queue => 'mixed', delay => '1 hour');
SELECT is(r::text, '(01:00:00,f)', 'jobs of other kinds do not count as waiting') FROM pgq_remaining('{mixed}', '{mine,k}') AS r;
SELECT is(r::text, '(,f)', 'none waits if all are of other kinds') FROM pgq_remaining('{mixed}', '{}') AS r;
SELECT is(r::text, '(,t)', 'jobs of other kinds count while they run') FROM pgq_remaining('{default}', '{none}') AS r;
SELECT throws_ok('SELECT pgq_remaining(NULL)', '22004', NULL, 'pgq_remaining refuses NULL for queues');
SELECT throws_ok($$ SELECT pgq_remaining('{}') $$, '22023', NULL, 'pgq_remaining refuses an empty array');

SELECT is(pgq_ripe_in('{default}'), '58 minutes', 'pgq_ripe_in looks past the jobs that are claimed');
SELECT is(pgq_ripe_in('{nothing}'), NULL, 'pgq_ripe_in does not count a job of another queue');
SELECT pgq_enqueue('n', queue => 'other', delay => '1 minute', priority => 9);
SELECT is(pgq_ripe_in('{default,other}'), '1 minute', 'for pgq_ripe_in the job that is ripe first counts, whatever its queue and priority');
SET LOCAL pgq.now = '2030-01-01 12:04Z';
SELECT is(pgq_ripe_in('{default,other}'), '-1 minute', 'pgq_ripe_in is negative for a job that has been ripe for some time');
SET LOCAL pgq.now = '2030-01-01 12:10Z';
SELECT is(pgq_ripe_in('{default}'), '0', 'pgq_ripe_in rescues jobs whose lease has ended')
FROM pgq_register('w');
SELECT throws_ok('SELECT pgq_ripe_in(NULL)', '22004', NULL, 'pgq_ripe_in refuses NULL for queues');
SELECT throws_ok($$ SELECT pgq_ripe_in('{}') $$, '22023', NULL, 'pgq_ripe_in refuses an empty array');

SELECT * FROM finish();
ROLLBACK;
