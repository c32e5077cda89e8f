-- pgq_find_jobs, which finds jobs page by page, and pgq_needs, which says what blocked jobs wait for.
BEGIN;
-- Tests before have drawn numbers.
ALTER SEQUENCE pgq_job_id RESTART;
SELECT plan(26);
SET LOCAL pgq.now = '2030-01-01 12:00Z';

SELECT is(f::text, '({},)', 'without jobs nothing is found') FROM pgq_find_jobs() AS f;

-- Numbers with gaps, a job in each state.
SELECT pgq_enqueue('a', to_jsonb(n), 'one', dedup_key => 'key' || n) FROM generate_series(1, 30) AS n;
SELECT setval('pgq_job_id', 1000000);
SELECT pgq_enqueue(kind, '{"to": "ann_%"}', kind, max_retries => 0, group_key => CASE kind WHEN 'waiting' THEN 'tenant' END)
FROM unnest('{waiting,running,done,dead,cancelled}'::text[]) AS kind;
SELECT c.id AS running FROM pgq_claim('{running}') AS c \gset
SELECT pgq_complete(c.id, c.token, '1') FROM pgq_claim('{done}') AS c;
SELECT pgq_fail(c.id, c.token) FROM pgq_claim('{dead}') AS c;
SELECT pgq_cancel(id) FROM pgq_jobs WHERE kind = 'cancelled';
SELECT id AS blocked FROM pgq_enqueue('blocked', queue => 'blocked', after => ARRAY[:running]) \gset
SELECT pgq_enqueue('packed', to_jsonb(n), 'packed') FROM generate_series(1, 20) AS n;
SELECT count(*) FROM (SELECT pgq_claim_batch('{packed}', 10)) AS c \g /dev/null

CREATE FUNCTION pg_temp.kinds(found bigint[]) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(j.kind, ' ' ORDER BY j.id DESC) FROM pgq_jobs AS j WHERE j.id = ANY (found)
$$;
SELECT is(f.ids, ARRAY(SELECT id FROM pgq_jobs ORDER BY id DESC LIMIT 50), 'the newest jobs of all states come first') FROM pgq_find_jobs() AS f;
SELECT is(f.next_before, f.ids[50], 'next_before is the number of the last one, if the page is full') FROM pgq_find_jobs() AS f;
SELECT is(f.ids, ARRAY(SELECT id FROM pgq_jobs ORDER BY id DESC OFFSET 50), 'the next page goes on there')
FROM pgq_find_jobs() AS p CROSS JOIN LATERAL pgq_find_jobs(before => p.next_before) AS f;
SELECT is(f.next_before, NULL, 'and is the last one')
FROM pgq_find_jobs() AS p CROSS JOIN LATERAL pgq_find_jobs(before => p.next_before) AS f;
SELECT is(pg_temp.kinds(f.ids), state, format('%s jobs are found, across a million numbers', state))
FROM unnest('{done,dead,cancelled,blocked}'::text[]) AS state CROSS JOIN LATERAL pgq_find_jobs(state) AS f;
SELECT is(f.ids, ARRAY(SELECT id FROM pgq_jobs WHERE state = 'running' ORDER BY id DESC), 'so are running ones, packed ones among them') FROM pgq_find_jobs('running') AS f;
SELECT is(cardinality(f.ids), 20, 'jobs of a queue are found, whether they wait or run') FROM pgq_find_jobs(queue => 'packed') AS f;
SELECT is(f.ids, '{}', 'and jobs of a kind in a queue') FROM pgq_find_jobs(queue => 'packed', kind => 'a') AS f;
SELECT is(pg_temp.kinds(f.ids), kinds, format('%L is text in %s', contains, what))
FROM (VALUES ('lockeD', NULL, 'no kind with a capital letter'), ('locked', 'blocked', 'a kind'), ('"ann_%"', 'cancelled dead done running waiting', 'args, where no character is special'),
             ('key7', 'a', 'a dedup_key'), ('tenant', 'waiting', 'a group_key')) AS t (contains, kinds, what)
CROSS JOIN LATERAL pgq_find_jobs(contains => t.contains) AS f;
SELECT is(f::text, '({},)', 'a page of no jobs is none') FROM pgq_find_jobs(max_jobs => 0) AS f;
SELECT is(f::text, '({},)', 'there is nothing before the first number') FROM pgq_find_jobs(before => 1) AS f;
SELECT is(cardinality(f.ids), 50, 'a number that is too large means the newest') FROM pgq_find_jobs(before => 9223372036854775807) AS f;

-- A search that takes long stops, and says how far it has come.
CREATE OR REPLACE FUNCTION _pgq_has_text(contains text, args jsonb, dedup_key text, group_key text) RETURNS boolean LANGUAGE sql VOLATILE
BEGIN ATOMIC SELECT pg_sleep(0.05) IS NULL; END;
SELECT is(f.ids = '{}' AND f.next_before BETWEEN 999000 AND 1000026, true, 'a search that takes long stops, and says from where on it has searched') FROM pgq_find_jobs('dead', contains => 'x') AS f;

SELECT throws_ok('SELECT pgq_find_jobs(max_jobs => NULL)', '22004', 'max_jobs is null', 'max_jobs is not NULL');
SELECT throws_ok('SELECT pgq_find_jobs(max_jobs => 1001)', '22023', NULL, 'a thousand jobs at most are found');
SELECT throws_ok('SELECT pgq_find_jobs(''nowhere'')', '22023', 'cannot find 50 jobs with state "nowhere"', 'the state is one of six');

-- What blocked jobs wait for.
SELECT results_eq('SELECT job, needs FROM pgq_needs', format('VALUES (%s::bigint, %s::bigint)', :blocked, :running), 'pgq_needs shows what a blocked job waits for');
SELECT pgq_cancel(:blocked);
SELECT is_empty('SELECT FROM pgq_needs', 'a job that has ended waits for nothing');

SELECT * FROM finish();
ROLLBACK;
