-- Settling and claiming in one call.
BEGIN;
SELECT plan(24);
SET LOCAL pgq.now = '2030-01-01 12:00Z';

CREATE TEMP VIEW held AS SELECT array_agg(id ORDER BY id) AS ids, array_agg(token ORDER BY id) AS tokens FROM pgq_running;

SELECT results_eq(
    'SELECT * FROM pgq_claim_batch()',
    $$ VALUES ('{}'::bigint[], NULL::bigint, NULL::timestamptz, NULL::boolean, '{}'::bigint[], '{}'::text[], '{}'::text[], '{}'::text[], '{}'::integer[],
               '{}'::integer[], '{}'::integer[], '{}'::timestamptz[], '{}'::timestamptz[], NULL::text[], NULL::text[], NULL::text[]) $$,
    'a claim without jobs returns one row of empty arrays');

-- The order is that of a claim; what a job has is at the same place in each array.
SELECT setval('pgq_job_id', 100);
SELECT pgq_enqueue('k' || n, jsonb_build_object('n', n), q, priority => p, max_retries => n, ripe_at => '2030-01-01 11:00Z')
FROM (VALUES (1, 'b', 5), (2, 'a', 5), (3, 'b', 0), (4, 'c', 5)) AS j (n, q, p);
SELECT results_eq(
    $$ SELECT lost, token > 0, lease_until, suspect, ids, queue_names, kinds, args, attempts, max_retries, priorities, ripe_ats, enqueued_ats, contexts
       FROM pgq_claim_batch('{a,b}', 10, '1 hour', 'w') $$,
    $$ VALUES ('{}'::bigint[], true, timestamptz '2030-01-01 13:00Z', false, '{103,101,102}'::bigint[], '{b,b,a}'::text[], '{k3,k1,k2}'::text[],
               ARRAY['{"n": 3}', '{"n": 1}', '{"n": 2}'], '{1,1,1}'::integer[], '{3,1,2}'::integer[], '{0,5,5}'::integer[],
               array_fill(timestamptz '2030-01-01 11:00Z', '{3}'), array_fill(timestamptz '2030-01-01 12:00Z', '{3}'), NULL::text[]) $$,
    'the arrays have the jobs of these queues in the order of a claim');
SELECT results_eq(
    'SELECT id, queue, kind, attempt, worker, lease_until, claimed_at FROM pgq_jobs WHERE state = ''running'' ORDER BY id',
    $$ SELECT j.id, j.queue, j.kind, 1, 'w', timestamptz '2030-01-01 13:00Z', pgq_now()
       FROM (VALUES (101::bigint, 'b', 'k1'), (102, 'a', 'k2'), (103, 'b', 'k3')) AS j (id, queue, kind) $$,
    'the jobs run, in their first attempt');
SELECT is((SELECT count(DISTINCT token) FROM pgq_running), 1::bigint, 'the jobs of a batch share their token');

SELECT is((SELECT lost FROM held, pgq_claim_batch(max_jobs => 0, done_ids => held.ids[1:2], done_tokens => held.tokens[1:2])), '{}', 'jobs that were held are not lost');
SELECT results_eq('SELECT id, state FROM pgq_jobs ORDER BY id', $$ VALUES (103::bigint, 'running'), (104, 'waiting') $$, 'the jobs that are done are gone');
SELECT results_eq(
    $$ SELECT c.lost, c.token IS NULL, c.ids FROM held, pgq_claim_batch('{c}', 0, done_ids => ARRAY[NULL, 102, 103, 101, 102], done_tokens => array_fill(held.tokens[1], '{5}')) AS c $$,
    $$ VALUES (ARRAY[NULL, 102, 101, 102]::bigint[], true, '{}'::bigint[]) $$, 'done jobs that are not held are lost, a NULL among them, in the order given');
SELECT is((SELECT count(*) FROM pgq_jobs WHERE state = 'waiting'), 1::bigint, 'max_jobs 0 takes no job');

SELECT pgq_enqueue('wrong token');
SELECT is((SELECT c.lost FROM pgq_claim() AS j, pgq_claim_batch(max_jobs => 0, done_ids => ARRAY[j.id, j.id], done_tokens => ARRAY[j.token + 1, NULL]) AS c), '{105,105}',
          'a job under a wrong token is lost');
SELECT is((SELECT c.lost FROM pgq_running AS j, pgq_claim_batch(max_jobs => 0, done_ids => ARRAY[j.id, j.id], done_tokens => ARRAY[j.token, j.token]) AS c WHERE j.id = 105), '{}',
          'a job that is given twice ends once');

-- Maintenance comes after the done jobs have ended.
SELECT pgq_enqueue('late');
SELECT id AS late, token FROM pgq_claim(lease => '1 minute') \gset
SET LOCAL pgq.now = '2030-01-01 12:10Z';
SELECT is((SELECT lost FROM pgq_claim_batch(done_ids => ARRAY[:late], done_tokens => ARRAY[:token])), '{}', 'a job that is done after its lease has ended is not rescued first');
SELECT is_empty(format('SELECT FROM pgq_jobs WHERE id = %s', :late), 'a job that is done after its lease has ended is gone');

SELECT pgq_enqueue('plain');
SELECT pgq_enqueue('traced', context => '{"trace": "ü"}');
SELECT is((SELECT contexts FROM pgq_claim_batch()), ARRAY[NULL, '{"trace": "ü"}'], 'contexts has a NULL for a job without one');

-- Limits.
SELECT pgq_enqueue('sized', to_jsonb(repeat(n::text, 1000)), 'sized') FROM generate_series(1, 3) AS n;
SELECT is((SELECT cardinality(ids) FROM pgq_claim_batch('{sized}', max_bytes => 1500)), 2, 'a batch ends where its args reach max_bytes');
SELECT is((SELECT cardinality(ids) FROM pgq_claim_batch('{sized}', 10)), 1, 'the next batch has the rest');
SELECT pgq_enqueue('many', to_jsonb(n), 'many') FROM generate_series(1, 101) AS n;
SELECT is((SELECT cardinality(ids) FROM pgq_claim_batch('{many}')), 100, 'a batch has a hundred jobs by default');
SELECT results_eq($$ SELECT args, attempts FROM pgq_claim_batch('{many}', packed => false) $$, $$ VALUES ('{101}'::text[], '{1}'::integer[]) $$, 'a batch that is not packed has the same arrays');

-- Suspects.
SELECT pgq_enqueue('s', to_jsonb(n), 's') FROM generate_series(1, 4) AS n;
UPDATE pgq_waiting SET losses = 1 WHERE queue = 's' AND args IN ('1', '3');
SELECT results_eq(
    $$ SELECT c.suspect, c.args FROM generate_series(1, 4) AS n CROSS JOIN LATERAL pgq_claim_batch(ARRAY[left('s', n)]) AS c $$,
    $$ VALUES (true, '{1}'::text[]), (false, '{2}'), (true, '{3}'), (false, '{4}') $$, 'a batch has a suspect alone');
SELECT is((SELECT count(*) FROM pgq_jobs WHERE queue = 's' AND losses = 1), 2::bigint, 'a suspect stays one while it runs');

SELECT pgq_enqueue('big', to_jsonb(9007199254740993), 'big');
SELECT is((SELECT args[1] FROM pgq_claim_batch('{big}')), '9007199254740993', 'args are the text of JSON, and exact');

-- One done job, which is looked up among the rows of running jobs first.
SELECT pgq_enqueue('one', queue => 'one');
SELECT ids[1] AS one, token FROM pgq_claim_batch('{one}') \gset
SELECT is((SELECT lost FROM pgq_claim_batch('{one}', done_ids => ARRAY[:one], done_tokens => ARRAY[:token + 1])), ARRAY[:one]::bigint[], 'one job under a wrong token is lost');
SELECT pgq_fail(:one, :token, 'broken', '0');
SELECT token FROM pgq_claim_batch('{one}') \gset
SELECT is((SELECT count(*) FROM pgq_error WHERE id = :one), 1::bigint, 'one job runs again, and has an error');
SELECT is((SELECT lost FROM pgq_claim_batch('{one}', done_ids => ARRAY[:one], done_tokens => ARRAY[:token])), '{}', 'one job that has failed before ends');
SELECT is((SELECT count(*) FROM pgq_error WHERE id = :one), 0::bigint, 'the errors of one job end with it');

SELECT * FROM finish();
ROLLBACK;
