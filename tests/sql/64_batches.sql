-- Batches: many jobs, and the one that comes after them.
BEGIN;
SELECT plan(73);
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SET LOCAL pgq.jitter = '0';

CREATE FUNCTION pg_temp.state(of bigint) RETURNS text LANGUAGE sql AS $$ SELECT coalesce((SELECT state FROM pgq_jobs WHERE id = of), 'gone') $$;
CREATE FUNCTION pg_temp.done(name text) RETURNS bigint LANGUAGE sql AS $$ SELECT c.id FROM pgq_claim(ARRAY[name]) AS c, pgq_complete(c.id, c.token) $$;
CREATE FUNCTION pg_temp.dead(name text) RETURNS bigint LANGUAGE sql AS $$ SELECT c.id FROM pgq_claim(ARRAY[name]) AS c, pgq_fail(c.id, c.token, retry => false) $$;
CREATE FUNCTION pg_temp.progress(of bigint) RETURNS text LANGUAGE sql AS $$ SELECT concat_ws(' ', jobs, ended, failed, failed_ids) FROM pgq_batch_progress(of) $$;
-- One job in the queue of each name.
CREATE FUNCTION pg_temp.jobs(VARIADIC queues text[]) RETURNS jsonb LANGUAGE sql
    AS $$ SELECT jsonb_agg(jsonb_build_object('kind', 'm', 'queue', q, 'args', q)) FROM unnest(queues) AS q $$;

SELECT id AS batch, ids[1] AS a, ids[2] AS b, ids[3] AS c FROM pgq_enqueue_batch('last', '{"x": 1}', pg_temp.jobs('a', 'b', 'c'), 'z', 3, 1, context => '{"t": 1}') \gset
SELECT ok(:a < :b AND :b < :c, 'the ids are those of the jobs, in their order');
SELECT is(pg_temp.state(:batch), 'blocked', 'the last job is blocked');
SELECT is((SELECT (kind, args, queue, priority, max_retries, context, dedup, after)::text FROM pgq_jobs WHERE id = :batch),
          ('last'::text, '{"x": 1}'::jsonb, 'z'::text, 3, 1, '{"t": 1}'::jsonb, false, ARRAY[:a, :b, :c]::bigint[])::text, 'it has what was given, and comes after all of them');
SELECT is(pg_temp.progress(:batch), '3 0 0 {}', 'none has ended');
SELECT is(pg_temp.done('a'), :a::bigint, 'one is done');
SELECT is(pg_temp.progress(:batch), '3 1 0 {}', 'and counts');
SELECT is(pg_temp.dead('b'), :b::bigint, 'one is dead');
SELECT is(pg_temp.progress(:batch), format('3 2 1 {%s}', :b), 'and counts as failed');
SELECT is((SELECT (jobs, ended, failed, failed_ids, queue, enqueued_at)::text FROM pgq_batches WHERE id = :batch),
          (3::bigint, 2::bigint, 1, ARRAY[:b]::bigint[], 'z'::text, pgq_now())::text, 'the view says the same');
SELECT is(pg_temp.state(:batch), 'blocked', 'the last job waits on');
SELECT is(pgq_cancel(:c), 'cancelled', 'one is cancelled');
SELECT is(pg_temp.state(:batch), 'waiting', 'then the last job is unblocked, whatever became of them');
SELECT is(pg_temp.progress(:batch), format('3 3 2 {%s,%s}', :b, :c), 'with the numbers of those that have failed');
SELECT is(pgq_purge('0'), 2::bigint, 'when these are purged');
SELECT is(pg_temp.progress(:batch), format('3 3 2 {%s,%s}', :b, :c), 'they are still known');
SELECT id AS claimed, token FROM pgq_claim('{z}') \gset
SELECT is(:claimed::bigint, :batch::bigint, 'the last job is claimed');
SELECT is(pg_temp.progress(:batch), format('3 3 2 {%s,%s}', :b, :c), 'and can ask');
SELECT pgq_complete(:claimed, :token);
SELECT is(pg_temp.progress(:batch), format('3 3 2 {%s,%s}', :b, :c), 'also when it is gone');

-- Whatever has failed at first and is retried.
SELECT id AS batch, ids[1] AS a FROM pgq_enqueue_batch('last', '1', pg_temp.jobs('a', 'b'), 'y') \gset
SELECT is(pg_temp.dead('a'), :a::bigint, 'a job is dead');
SELECT is(pgq_retry(:a), 'retry', 'an operator retries it');
SELECT is(pg_temp.done('a'), :a::bigint, 'and it is done');
SELECT is(pg_temp.progress(:batch), format('2 1 1 {%s}', :a), 'it has failed all the same, once');
SELECT isnt(pg_temp.done('b'), NULL, 'the other one is done');
SELECT is(pg_temp.done('y'), :batch::bigint, 'and then the last');

-- Empty, and over at once.
SELECT id AS batch, ids AS none FROM pgq_enqueue_batch('last', '1', '[]', 'x') \gset
SELECT is(:'none'::bigint[], '{}', 'an empty batch has no jobs');
SELECT is(pg_temp.progress(:batch), '0 0 0 {}', 'nor numbers');
SELECT is(pg_temp.done('x'), :batch::bigint, 'its last job is not blocked');
SELECT id AS dead FROM pgq_enqueue('m', '"d"', 'd', dedup_for => '1 hour') \gset
SELECT is(pg_temp.dead('d'), :dead::bigint, 'a job of a window is dead');
SELECT id AS batch FROM pgq_enqueue_batch('last', '1', '[{"kind": "m", "args": "d", "queue": "d", "dedup_for": "01:00"}]', 'x') \gset
SELECT is(pg_temp.progress(:batch), format('1 1 1 {%s}', :dead), 'a duplicate that has failed already counts so');
SELECT is(pg_temp.done('x'), :batch::bigint, 'and blocks nothing');

-- Duplicates.
SELECT id AS twin FROM pgq_enqueue('m', '"a"', 'a') \gset
SELECT id AS batch, ids AS same FROM pgq_enqueue_batch('last', '1', pg_temp.jobs('a', 'a'), 'x') \gset
SELECT is(:'same'::bigint[], ARRAY[:twin, :twin]::bigint[], 'a job that waits belongs to the batch');
SELECT is(pg_temp.progress(:batch), '1 0 0 {}', 'and counts once');
SELECT isnt((SELECT id FROM pgq_enqueue_batch('last', '1', pg_temp.jobs('a', 'a'), 'w')), :batch::bigint, 'the batch itself is never a duplicate');
SELECT is(pg_temp.dead('a'), :twin::bigint, 'the job is dead');
SELECT is((SELECT count(*) FROM pgq_batches WHERE failed_ids = ARRAY[:twin]::bigint[]), 2::bigint, 'which both batches know');
SELECT is(pg_temp.done('x'), :batch::bigint, 'the one goes on');
SELECT isnt(pg_temp.done('w'), NULL, 'and the other');

-- Additions.
SELECT id AS batch FROM pgq_enqueue_batch('last', '1', pg_temp.jobs('a'), 'x') \gset
SELECT id AS adder, token FROM pgq_claim('{a}') \gset
SELECT pgq_add_to_batch(:adder, :token, pg_temp.jobs('b', 'c')) AS added \gset
SELECT is(pg_temp.progress(:batch), '3 0 0 {}', 'jobs are added to a batch from one of its jobs');
SELECT pgq_complete(:adder, :token);
SELECT is(pg_temp.state(:batch), 'blocked', 'the last job waits for them, too');
SELECT is(pg_temp.dead('b'), (:'added'::bigint[])[1], 'one of them is dead');
SELECT is(pg_temp.progress(:batch), format('3 2 1 {%s}', (:'added'::bigint[])[1]), 'and counts');
SELECT is(pg_temp.done('c'), (:'added'::bigint[])[2], 'the other is done');
SELECT is(pg_temp.done('x'), :batch::bigint, 'then the last job runs');
SELECT throws_ok(format('SELECT pgq_add_to_batch(%s, %s, ''[]'')', :adder, :token), 'PGQ02', NULL, 'a job that has ended adds nothing');
SELECT id AS batch, ids[2] AS b FROM pgq_enqueue_batch('last', '1', pg_temp.jobs('a', 'b'), 'x') \gset
SELECT id AS adder, token FROM pgq_claim('{a}') \gset
SELECT is(pgq_add_to_batch(:adder, :token, pg_temp.jobs('b', 'c')) <@ ARRAY[:b]::bigint[], false, 'a job of the batch is added again, with a new one');
SELECT is(pg_temp.progress(:batch), '3 0 0 {}', 'and counts once');
SELECT pgq_complete(:adder, :token);
SELECT is(pg_temp.dead('b'), :b::bigint, 'it is dead');
SELECT is(pg_temp.done('c') IS NULL, false, 'the new one is done');
SELECT is(pg_temp.done('x'), :batch::bigint, 'and the last');
-- One that has failed already is added twice.
SELECT id AS dead FROM pgq_enqueue('m', '"e"', 'e', dedup_for => '1 hour') \gset
SELECT pg_temp.dead('e');
SELECT id AS batch FROM pgq_enqueue_batch('last', '1', pg_temp.jobs('a'), 'x') \gset
SELECT id AS adder, token FROM pgq_claim('{a}') \gset
SELECT count(pgq_add_to_batch(:adder, :token, '[{"kind": "m", "args": "e", "queue": "e", "dedup_for": "01:00"}]')) FROM generate_series(1, 2);
SELECT is((SELECT (failed, failed_ids)::text FROM pgq_batch_progress(:batch)), (1::bigint, ARRAY[:dead]::bigint[])::text, 'a job that has failed has failed once');
SELECT is(pg_temp.progress(:batch), format('2 1 1 {%s}', :dead), 'and counts once');
SELECT pgq_retry(:dead);
SELECT pgq_add_to_batch(:adder, :token, '[{"kind": "m", "args": "e", "queue": "e", "dedup_for": "01:00"}]');
SELECT is(pg_temp.progress(:batch), format('2 0 1 {%s}', :dead), 'also when it was retried, and the batch waits for it');
SELECT is(pg_temp.done('e'), :dead::bigint, 'it is done');
SELECT pgq_add_to_batch(:adder, :token, '[{"kind": "m", "args": "e", "queue": "e", "dedup_for": "01:00"}]');
SELECT is(pg_temp.progress(:batch), format('2 1 1 {%s}', :dead), 'and when it is done');
SELECT is((SELECT (p.jobs, p.ended)::text FROM pgq_enqueue_batch('last', '1', '[{"kind": "m", "args": "e", "queue": "e", "dedup_for": "01:00"}]', 'u') AS b, pgq_batch_progress(b.id) AS p), '(0,0)', 'a job that is done already is in no further batch');
SELECT isnt(pg_temp.done('u'), NULL, 'whose last job runs');
SELECT is((SELECT (failed, failed_ids)::text FROM pgq_batches WHERE id = :batch), (1, ARRAY[:dead]::bigint[])::text, 'in the view, too');
SELECT pgq_complete(:adder, :token);
SELECT is(pg_temp.done('x'), :batch::bigint, 'and blocks nothing');
-- Another session ends a job after the call has looked for it: the row of its need is there, and it is dead.
SELECT id AS batch, ids[1] AS a FROM pgq_enqueue_batch('last', '1', pg_temp.jobs('a'), 'x') \gset
SELECT id AS dead FROM pgq_enqueue('m', '"d"', 'd', dedup => false) \gset
SELECT pg_temp.dead('d');
INSERT INTO pgq_need (job, needs) VALUES (:batch, :dead);
SELECT _pgq_count_added(ARRAY[:batch]::bigint[], '{x}', '{1}', ARRAY[:dead]::bigint[], pgq_now());
SELECT is(pg_temp.progress(:batch), '2 0 0 {}', 'a job that has just failed does not count before it has ended for the batch');
SELECT _pgq_settle_blocked(pgq_now());
SELECT is(pg_temp.progress(:batch), format('2 1 1 {%s}', :dead), 'then it counts once');
SELECT is(pg_temp.done('a'), :a::bigint, 'the other is done');
SELECT is(pg_temp.done('x'), :batch::bigint, 'and the last');

SELECT id AS other FROM pgq_enqueue('m', queue => 'a') \gset
SELECT id AS adder, token FROM pgq_claim('{a}') \gset
SELECT throws_ok(format('SELECT pgq_add_to_batch(%s, %s, ''[]'')', :adder, :token), 'PGQ03', format('no batch waits for job %s', :adder), 'nor does a job without a batch');
SELECT id AS after FROM pgq_enqueue('after', after => ARRAY[:adder]) \gset
SELECT throws_ok(format('SELECT pgq_add_to_batch(%s, %s, ''[]'')', :adder, :token), 'PGQ03', NULL, 'nor one for which a job waits that is no batch');
SELECT pgq_complete(:adder, :token);
SELECT id AS batch FROM pgq_enqueue_batch('last', '1', pg_temp.jobs('a'), 'x') \gset
SELECT id AS adder, token FROM pgq_claim('{a}', lease => '30 days') \gset
SELECT throws_ok(format('SELECT pgq_add_to_batch(%s, %s, ''[{"kind": "m", "after": [%s]}]'')', :adder, :token, :batch), '22023',
                 'a job that is added to a batch has an id in after', 'a job that is added cannot wait for the batch');

-- Cancelled, forgotten.
SELECT is(pgq_cancel(:batch), 'cancelled', 'a batch is cancelled');
SELECT is(pg_temp.progress(:batch), '1 0 0 {}', 'what is left of it never counts as ended');
SELECT is((SELECT (jobs, ended)::text FROM pgq_batches WHERE id = :batch), '(1,0)', 'in the view, too');
SELECT throws_ok('SELECT pgq_batch_progress(1000000)', 'PGQ01', 'there is no batch 1000000', 'there is no such batch');
SELECT id AS blocked FROM pgq_enqueue_batch('last', '1', pg_temp.jobs('v1'), 'blocked') \gset
SELECT id AS waiting FROM pgq_enqueue_batch('last', '1', '[]', 'waiting') \gset
SELECT id AS running FROM pgq_enqueue_batch('last', '1', '[]', 'running') \gset
SELECT count(*) FROM pgq_claim('{running}', lease => '30 days');
SET LOCAL pgq.now = '2030-01-02 12:00Z';
SELECT id AS young FROM pgq_enqueue_batch('last', '1', '[]', 'young') \gset
SELECT is(pg_temp.done('young'), :young::bigint, 'a batch is over a day later');
SET LOCAL pgq.now = '2030-01-09 12:00Z';
SELECT _pgq_delete_batches(pgq_now());
SELECT is((SELECT array_agg(id ORDER BY id) FROM pgq_batches), ARRAY[:batch, :blocked, :waiting, :running, :young]::bigint[], 'old batches are forgotten, but for those that are still jobs');
SELECT pgq_purge('0');
SET LOCAL pgq.now = '2030-01-09 12:04Z';
SELECT _pgq_delete_batches(pgq_now());
SELECT isnt_empty(format('SELECT FROM pgq_batch WHERE id = %s', :batch), 'there is a pass every five minutes');
SET LOCAL pgq.now = '2030-01-09 12:05Z';
SELECT _pgq_delete_batches(pgq_now());
SELECT is((SELECT array_agg(id ORDER BY id) FROM pgq_batches), ARRAY[:blocked, :waiting, :running]::bigint[], 'the next one forgets what was purged meanwhile');

SELECT * FROM finish();
ROLLBACK;
