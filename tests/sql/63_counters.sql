-- The counters: each step in the life of a job is counted once, whether the job runs packed or alone.
BEGIN;
SELECT plan(31);
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SET LOCAL pgq.jitter = '0';

CREATE FUNCTION pg_temp.counts(kind text) RETURNS text LANGUAGE sql AS $$
    SELECT concat_ws(' ', enqueued, claimed, done, failed, dead, cancelled, merged, retried) FROM pgq_counters AS c WHERE c.kind = counts.kind
$$;
CREATE FUNCTION pg_temp.claim(OUT id bigint, OUT token bigint) LANGUAGE sql AS $$ SELECT c.id, c.token FROM pgq_claim() AS c $$;

-- One job after the other: enqueued, claimed, done, failed, dead, cancelled, merged, retried.
SELECT is_empty('SELECT FROM pgq_counters', 'at first there is nothing to count');
SELECT pgq_enqueue('a');
SELECT is(pg_temp.counts('a'), '1 0 0 0 0 0 0 0', 'a job that waits is enqueued');
SELECT pgq_enqueue('a');
SELECT is(pg_temp.counts('a'), '1 0 0 0 0 0 0 0', 'a duplicate is none');
SELECT id, token FROM pg_temp.claim() \gset
SELECT is(pg_temp.counts('a'), '1 1 0 0 0 0 0 0', 'an attempt has begun');
SELECT pgq_fail(:id, :token, 'why', '0');
SELECT is(pg_temp.counts('a'), '1 1 0 1 0 0 0 0', 'and has failed');
SELECT pgq_release(id, token) FROM pgq_claim();
SELECT is(pg_temp.counts('a'), '1 2 0 1 0 0 0 0', 'one that does not count has not failed');
SELECT pgq_complete(id, token) FROM pgq_claim();
SELECT is(pg_temp.counts('a'), '1 3 1 1 0 0 0 0', 'the job is done, and leaves nothing else');
SELECT pgq_enqueue('b', max_retries => 0);
SELECT pgq_complete(id, token, '1') FROM pgq_claim();
SELECT is(pg_temp.counts('b'), '1 1 1 0 0 0 0 0', 'with a result it is done, too');
SELECT pgq_enqueue('b', max_retries => 0);
SELECT pgq_fail(id, token, 'why') FROM pgq_claim();
SELECT is(pg_temp.counts('b'), '2 2 1 1 1 0 0 0', 'a job is dead');
SELECT pgq_retry(id) FROM pgq_jobs WHERE state = 'dead';
SELECT is(pg_temp.counts('b'), '2 2 1 1 1 0 0 1', 'one that is retried is not enqueued once more');
SELECT pgq_cancel(id) FROM pgq_jobs WHERE state = 'waiting';
SELECT is(pg_temp.counts('b'), '2 2 1 1 1 1 0 1', 'a waiting job is cancelled');
SELECT pgq_purge('0');
SELECT is(pg_temp.counts('b'), '2 2 1 1 1 1 0 1', 'a purge changes nothing');
SELECT pgq_enqueue('b');
SELECT pgq_cancel_claimed(id, token) FROM pgq_claim();
SELECT is(pg_temp.counts('b'), '3 3 1 1 1 2 0 1', 'a running job is cancelled');
SELECT pgq_configure('limited', '{"max_running": 1}');
SELECT pgq_enqueue('limited', queue => 'limited', group_key => 'x');
SELECT pgq_complete(id, token) FROM pgq_claim('{limited}');
SELECT is(pg_temp.counts('limited'), '1 1 1 0 0 0 0 0', 'one of a group, with limits, counts as any other');
SELECT pgq_enqueue('c');
SELECT id, token FROM pg_temp.claim() \gset
SELECT pgq_enqueue('c');
SELECT pgq_release(:id, :token);
SELECT is(pg_temp.counts('c'), '2 1 0 0 0 0 1 0', 'a job merges with its twin');

-- A packed batch, whose jobs are done one after the other, all at once, or unpacked.
CREATE FUNCTION pg_temp.batch(VARIADIC kinds text[]) RETURNS void LANGUAGE sql AS $$
    SELECT pgq_enqueue_many((SELECT jsonb_agg(jsonb_build_object('kind', kinds[1 + n % cardinality(kinds)], 'queue', 'q', 'dedup', false)) FROM generate_series(1, 10) AS n))
$$;
SELECT pg_temp.batch('d');
SELECT ids, array_fill(token, '{10}') AS tokens, ids[1] AS first, token FROM pgq_claim_batch('{q}') \gset
SELECT is(pg_temp.counts('d'), '10 0 0 0 0 0 0 0', 'the jobs of a batch live');
SELECT pgq_complete_many(ARRAY[:first], ARRAY[:token]);
SELECT is(pg_temp.counts('d'), '10 0 1 0 0 0 0 0', 'one is done');
SELECT pgq_fail(:first + 1, :token, 'why', '1 day');
SELECT is(pg_temp.counts('d'), '10 10 1 1 0 0 0 0', 'one has failed, outside of the batch');
SELECT count(*) FROM pgq_complete_many(:'ids', :'tokens');
SELECT is(pg_temp.counts('d'), '10 10 9 1 0 0 0 0', 'all others are done');
SELECT pg_temp.batch('e', 'f');
SELECT ids, array_fill(token, '{10}') AS tokens FROM pgq_claim_batch('{q}') \gset
SELECT count(*) FROM pgq_complete_many(:'ids', :'tokens');
SELECT is(pg_temp.counts('e') || ', ' || pg_temp.counts('f'), '5 5 5 0 0 0 0 0, 5 5 5 0 0 0 0 0', 'a batch of two kinds is counted by kind');
SELECT pg_temp.batch('i');
SELECT ids, array_fill(token, '{10}') AS tokens, ids[1] AS first, token FROM pgq_claim_batch('{q}') \gset
SELECT pgq_complete_many(ARRAY[:first], ARRAY[:token]);
SELECT count(*) FROM pgq_complete_many(:'ids', :'tokens');
SELECT is(pg_temp.counts('i'), '10 10 10 0 0 0 0 0', 'a batch that is done in two calls is counted by the second');

-- Times.
SELECT pg_temp.batch('g');
SET LOCAL pgq.now = '2030-01-01 12:00:02Z';
SELECT ids, array_fill(token, '{10}') AS tokens FROM pgq_claim_batch('{q}') \gset
SET LOCAL pgq.now = '2030-01-01 12:00:05Z';
SELECT count(*) FROM pgq_complete_many(:'ids', :'tokens');
SELECT results_eq($$ SELECT waited_seconds, timed, ran_seconds FROM pgq_counters WHERE kind = 'g' $$, 'VALUES (20::double precision, 10::bigint, 30::double precision)', 'ten jobs waited for two seconds, and ran for three');
SELECT setval('pgq_token', (SELECT max(t) FROM generate_series(2000000000000000, 2000000000000200) AS t WHERE _pgq_is_timed(t)) - 1);
SELECT pgq_enqueue('h', queue => 'h');
SELECT id, token FROM pgq_claim('{h}') \gset
SELECT ok(_pgq_is_timed(:token), 'the time of this claim is counted');
SET LOCAL pgq.now = '2030-01-01 12:00:06Z';
SELECT pgq_complete(:id, :token);
SELECT pgq_enqueue('h', queue => 'h');
SELECT pgq_complete(id, token) FROM pgq_claim('{h}');
SELECT results_eq($$ SELECT done, timed, ran_seconds FROM pgq_counters WHERE kind = 'h' $$, 'VALUES (2::bigint, 64::bigint, 64::double precision)', 'its job stands for 64');

-- Folded rows count the same. A claim above may have made a step, so the next one is due a little later.
INSERT INTO pgq_count (queue, kind, event, jobs, waited) SELECT 'default', 'z' || n % 3, 'claimed', 1, '1 s' FROM generate_series(1, 5900) AS n;
SELECT array_agg(c ORDER BY c.kind)::text AS before FROM pgq_counters AS c \gset
SELECT _pgq_fold_counts(pgq_now() + interval '1 minute');
SELECT cmp_ok(count(*), '<', 1100::bigint, 'a step folds 5000 rows') FROM pgq_count;
SELECT is(array_agg(c ORDER BY c.kind)::text, :'before', 'the sums stay') FROM pgq_counters AS c;
SELECT count(*) AS rows FROM pgq_count \gset
SELECT _pgq_fold_counts(pgq_now() + interval '2 minutes');
SELECT is(count(*), :rows::bigint, 'few rows are left alone') FROM pgq_count;
SELECT is(sum(done), 5944::numeric, 'what was claimed and has not ended otherwise is done') FROM pgq_counters;

-- Times of jobs whose ripe_at lay far back: their sum is more than an interval can have.
DELETE FROM pgq_count;
INSERT INTO pgq_count (queue, kind, event, jobs, waited) SELECT 'default', 'old', 'claimed', 1, '1000000 days' FROM generate_series(1, 6000);
SELECT is(waited_seconds, 6000 * 86400000000::float8, 'times are added up beyond the longest interval') FROM pgq_counters WHERE kind = 'old';
SELECT lives_ok($$ SELECT _pgq_fold_counts(pgq_now() + interval '3 minutes') $$, 'rows with such times are folded');
SELECT results_eq('SELECT count(*), sum(jobs) FROM pgq_count', 'VALUES (1001::bigint, 6000::numeric)', 'and no job is missing');

SELECT * FROM finish();
ROLLBACK;
