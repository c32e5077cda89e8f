-- The views pgq_jobs and pgq_stats.
BEGIN;
SELECT plan(17);
SET LOCAL pgq.now = '2030-01-01 12:00Z';

SELECT is_empty('SELECT FROM pgq_jobs', 'pgq_jobs is empty without jobs');
SELECT is_empty('SELECT FROM pgq_stats', 'pgq_stats is empty without jobs');

SELECT pgq_enqueue('a', to_jsonb(n), ripe_at => pgq_now() + n * interval '1 hour') FROM generate_series(-3, 2) AS n;
SELECT pgq_enqueue('b', to_jsonb(n), 'other', max_retries => 0, dedup_key => 'k' || n) FROM generate_series(1, 4) AS n;
SELECT pgq_fail(c.id, c.token, 'why') FROM pgq_claim('{other}', 2, worker => 'w') AS c;
SELECT pgq_complete(c.id, c.token, '"r"') FROM pgq_claim('{other}') AS c;
SELECT pgq_cancel(id) FROM pgq_jobs WHERE kind = 'b' AND state = 'waiting';
SELECT pgq_claim(worker => 'w');

SELECT results_eq(
    'SELECT queue, kind, waiting, ripe, running, dead, cancelled, done, oldest_ripe_age FROM pgq_stats ORDER BY queue',
    $$ VALUES ('default', 'a', 5::bigint, 3::bigint, 1::bigint, 0::bigint, 0::bigint, 0::bigint, interval '2 hours'),
              ('other', 'b', 0, 0, 0, 2, 1, 1, NULL) $$,
    'pgq_stats counts the jobs of each queue and kind');
SET LOCAL pgq.now = '2030-01-01 13:00Z';
SELECT results_eq($$ SELECT waiting, ripe, oldest_ripe_age FROM pgq_stats WHERE kind = 'a' $$,
                  $$ VALUES (5::bigint, 4::bigint, interval '3 hours') $$, 'pgq_stats counts jobs that have become ripe');

SELECT results_eq(
    $$ SELECT state, args, worker, claimed_at IS NOT NULL, lease_until IS NOT NULL, ended_at IS NOT NULL, result FROM pgq_jobs
       WHERE kind = 'b' OR state = 'running' ORDER BY id $$,
    $$ VALUES ('running', '-3'::jsonb, 'w', true, true, false, NULL::jsonb),
              ('dead', '1', 'w', true, false, true, NULL), ('dead', '2', 'w', true, false, true, NULL),
              ('done', '3', NULL, true, false, true, '"r"'), ('cancelled', '4', NULL, false, false, true, NULL) $$,
    'pgq_jobs has values in the columns of each state, and NULL in the others');
SELECT results_eq($$ SELECT DISTINCT state FROM pgq_jobs WHERE kind = 'a' ORDER BY 1 $$, $$ VALUES ('running'), ('waiting') $$,
                  'pgq_jobs shows waiting and running jobs');
SELECT is((errors -> 0) - 'at', '{"attempt": 1, "worker": "w", "error": "why"}', 'pgq_jobs shows why a job is dead') FROM pgq_jobs WHERE args = '1' AND state = 'dead';
SELECT pgq_enqueue('c', delay => '1 hour');
SELECT results_eq($$ SELECT waiting, ripe, oldest_ripe_age FROM pgq_stats WHERE kind = 'c' $$,
                  $$ VALUES (1::bigint, 0::bigint, NULL::interval) $$, 'oldest_ripe_age is NULL if no job is ripe');
SELECT is(dedup_key, 'k1', 'pgq_jobs shows the dedup_key') FROM pgq_jobs WHERE args = '1' AND state = 'dead';
SELECT is(
    (SELECT string_agg(column_name::text, ',' ORDER BY ordinal_position) FROM information_schema.columns
     WHERE table_name = 'pgq_jobs' AND table_schema = current_schema()),
    'id,state,queue,kind,args,priority,ripe_at,attempt,max_retries,backoff,backoff_cap,dedup,dedup_key,enqueued_at,errors,'
    'worker,claimed_at,lease_until,ended_at,result,context,losses,cancel_requested_at,group_key,after,saved,waits_for_signal,sensitive', 'pgq_jobs has these columns, and no token');

-- Which kinds a present worker handles. This session is each of the workers.
SELECT pgq_enqueue(kind, '[]', 'new') FROM unnest('{x,y}'::text[]) AS kind;
CREATE FUNCTION pg_temp.handled() RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(kind || coalesce(handled::text, '?'), ' ' ORDER BY kind) FROM pgq_stats WHERE queue = 'new';
$$;
SELECT is(pg_temp.handled(), 'xfalse yfalse', 'without a worker no kind is handled');
SELECT pgq_register('one', '{default,new}', kinds => '{x,z}');
SELECT is(pg_temp.handled(), 'xtrue yfalse', 'a kind is handled if a present worker has a handler for it');
SELECT pgq_register('two', '{other}', kinds => '{y}');
SELECT is(pg_temp.handled(), 'xtrue yfalse', 'a worker of other queues does not count');
SELECT is(handles, '{x,z}', 'pgq_workers shows the kinds that a worker handles') FROM pgq_workers WHERE name = 'one';
SELECT pgq_register('three', '{new}');
SELECT is(pg_temp.handled(), 'xtrue y?', 'nothing is claimed about kinds while a present worker does not tell');
SELECT pgq_unregister('three'), pgq_unregister('one');
SELECT is(pg_temp.handled(), 'xfalse yfalse', 'a worker that has left does not count');
SELECT pgq_register('two', '{new}', kinds => '{x,y}');
SELECT is(pg_temp.handled(), 'xtrue ytrue', 'registering again tells the kinds anew');

SELECT * FROM finish();
ROLLBACK;
