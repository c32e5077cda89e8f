-- Whether there is work left.
BEGIN;
SELECT plan(8);
SET LOCAL pgq.now = '2030-01-01 12:00Z';

CREATE FUNCTION pg_temp.pending(queues text[]) RETURNS text LANGUAGE sql AS $$
    SELECT p::text FROM pgq_remaining(queues) AS p
$$;
SELECT is(pg_temp.pending('{default}'), '(,f)', 'nothing waits, and nothing runs');
SELECT pgq_enqueue('k', delay => '1 hour', priority => 0), pgq_enqueue('l', delay => '1 minute'), pgq_enqueue('m', queue => 'other');
SELECT is(pg_temp.pending('{default}'), '(00:01:00,f)', 'the next one counts, of whichever priority');
SELECT is(pg_temp.pending('{default,other}'), '(00:00:00,f)', 'and of whichever queue');
SET LOCAL pgq.now = '2030-01-01 12:02Z';
SELECT is(pg_temp.pending('{default}'), '(-00:01:00,f)', 'one that is ripe has been so for a while');
SELECT count(*) FROM pgq_claim('{default,other}', 2);
SELECT is(pg_temp.pending('{default}'), '(00:58:00,t)', 'what is claimed runs');
SELECT is(pg_temp.pending('{nothing}'), '(,f)', 'but not elsewhere');
SELECT throws_ok('SELECT pgq_remaining(NULL)', '22004', NULL, 'NULL is refused');
SELECT throws_ok($$ SELECT pgq_remaining('{}') $$, '22023', NULL, 'and no queue at all');

SELECT * FROM finish();
ROLLBACK;
