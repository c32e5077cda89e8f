-- Claiming: only ripe jobs, in order, each once.
BEGIN;
SELECT plan(45);
SET LOCAL pgq.now = '2030-01-01 12:00Z';

SELECT is_empty('SELECT * FROM pgq_claim()', 'a claim without jobs returns no row');

-- Two reminders, four and eight hours from now.
SELECT pgq_enqueue('reminder', '"first"', delay => '4 hours');
SELECT pgq_enqueue('reminder', '"second"', ripe_at => '2030-01-01 20:00Z');
SELECT is_empty('SELECT * FROM pgq_claim()', 'a delayed job is not ripe now');
SET LOCAL pgq.now = '2030-01-01 14:00Z';
SELECT is_empty('SELECT * FROM pgq_claim()', 'a delayed job is not ripe two hours later');
SET LOCAL pgq.now = '2030-01-01 17:00Z';
SELECT results_eq('SELECT args FROM pgq_claim(max_jobs => 10)', $$ VALUES ('"first"'::jsonb) $$, 'the first job is ripe after five hours');
SET LOCAL pgq.now = '2030-01-02 08:00Z';
SELECT results_eq(
    $$ SELECT args FROM pgq_claim(max_jobs => 10) WHERE attempt = 1 $$, $$ VALUES ('"second"'::jsonb) $$,
    'the second job is ripe after twenty hours');
DELETE FROM pgq_running;

SELECT pgq_enqueue('sharp', ripe_at => '2030-02-01 00:00Z');
SET LOCAL pgq.now = '2030-01-31 23:59:59.999999Z';
SELECT is_empty('SELECT * FROM pgq_claim()', 'a job is not ripe a microsecond before ripe_at');
SET LOCAL pgq.now = '2030-02-01 00:00Z';
SELECT results_eq('SELECT kind FROM pgq_claim()', $$ VALUES ('sharp') $$, 'a job is ripe at ripe_at');
SELECT is_empty('SELECT * FROM pgq_claim()', 'a job is claimed once');

SELECT pgq_enqueue('n', to_jsonb(n)) FROM generate_series(1, 5) AS n;
SELECT is_empty('SELECT * FROM pgq_claim(max_jobs => 0)', 'a claim of at most 0 jobs returns none');
SELECT results_eq('SELECT args FROM pgq_claim()', $$ VALUES ('1'::jsonb) $$, 'a claim returns one job by default');
SELECT results_eq(
    'SELECT args FROM pgq_claim(max_jobs => 3)', $$ VALUES ('2'::jsonb), ('3'), ('4') $$, 'a claim returns at most max_jobs jobs');
SELECT results_eq('SELECT args FROM pgq_claim(max_jobs => 3)', $$ VALUES ('5'::jsonb) $$, 'a claim returns fewer jobs if no more are ripe');

-- Order: priority, then ripe_at, then id.
SELECT pgq_enqueue('o', to_jsonb(name), priority => priority, ripe_at => timestamptz '2030-01-01 00:00Z' + age)
FROM (VALUES ('f', 9, interval '0'), ('d', 5, '2 h'), ('a', 0, '3 h'), ('c', 5, '1 h'), ('e', 5, '2 h'), ('b', 1, '9 h'))
     AS job (name, priority, age);
SELECT results_eq(
    'SELECT args FROM pgq_claim(max_jobs => 10)', $$ VALUES ('"a"'::jsonb), ('"b"'), ('"c"'), ('"d"'), ('"e"'), ('"f"') $$,
    'a claim returns jobs in the order of priority, ripe_at and id');

SELECT pgq_enqueue('one by one', to_jsonb(priority), priority => priority) FROM (VALUES (4), (9), (0)) AS job (priority);
SELECT results_eq('SELECT args FROM pgq_claim()', ARRAY[to_jsonb(priority)], format('single claims return the job of priority %s next', priority))
FROM (VALUES (0), (4), (9)) AS job (priority);

SELECT pgq_enqueue('l', to_jsonb(name), ripe_at => timestamptz '2030-01-01 00:00Z' + age)
FROM (VALUES ('second', interval '2 h'), ('first', '1 h'), ('third', '2 h')) AS job (name, age);
SELECT results_eq('SELECT c.args FROM generate_series(1, 3) AS n CROSS JOIN LATERAL pgq_claim(ARRAY[left(''default'', 7 + n)]) AS c',
                  $$ VALUES ('"first"'::jsonb), ('"second"'), ('"third"') $$, 'single claims return jobs in the order of ripe_at and id');

SELECT pgq_enqueue('urgent later', priority => 0, delay => '1 hour');
SELECT pgq_enqueue('ripe', priority => 9);
SELECT results_eq(
    'SELECT kind FROM pgq_claim()', $$ VALUES ('ripe') $$, 'an urgent job that is not ripe does not block a ripe one');

-- Several queues.
SELECT pgq_enqueue(kind, queue => queue, priority => priority)
FROM (VALUES ('a5', 'a', 5), ('b5', 'b', 5), ('b0', 'b', 0), ('c5', 'c', 5)) AS job (kind, queue, priority);
SELECT is_empty('SELECT * FROM pgq_claim()', 'a claim leaves other queues alone');
SELECT results_eq(
    $$ SELECT kind, queue FROM pgq_claim('{b,a,b}', 10) $$, $$ VALUES ('b0', 'b'), ('a5', 'a'), ('b5', 'b') $$,
    'several queues are served by priority, and a queue that is named twice counts once');
SELECT pgq_enqueue('twice', queue => 'twice', priority => priority) FROM (VALUES (0), (5)) AS job (priority);
SELECT pgq_enqueue('twice', queue => 'twice', priority => 5, dedup_key => 'other');
SELECT results_eq($$ SELECT priority FROM pgq_claim('{twice,twice}', 2) $$, $$ VALUES (0), (5) $$,
                  'a job of a queue that is named twice is returned once and leaves room for another');
SELECT pgq_enqueue(kind, queue => left(kind, 1), priority => right(kind, 1)::integer)
FROM (VALUES ('t5'), ('u5'), ('u4')) AS job (kind);
SELECT results_eq($$ SELECT kind FROM pgq_claim('{t,u}') $$, $$ VALUES ('u4') $$, 'priority goes before the order in which the queues are named');
SELECT results_eq($$ SELECT kind FROM pgq_claim('{u,t,u}') $$, $$ VALUES ('u5') $$, 'the first mention of a queue that is named twice counts');
SELECT pgq_enqueue('a', queue => 'a');
SELECT pgq_enqueue('c', queue => 'c');
SELECT results_eq($$ SELECT queue FROM pgq_claim('{c,a}', 2) $$, $$ VALUES ('c'), ('c') $$,
                  'within one priority the queue that is named first goes first');

-- What a claim records and returns.
SELECT pgq_enqueue('noted', priority => 3, max_retries => 4);
SET LOCAL pgq.now = '2030-02-01 00:04Z';
SELECT * FROM pgq_claim(lease => '7 minutes', worker => 'me') AS c \gset c_
SELECT is(:'c_kind'::text, 'noted', 'the claim returns the kind');
SELECT is(:'c_attempt'::text, '1', 'the claim counts the attempt');
SELECT is(:'c_max_retries'::text, '4', 'the claim returns max_retries');
SELECT is(:'c_priority'::text, '3', 'the claim returns the priority');
SELECT is(:'c_ripe_at'::timestamptz, '2030-02-01 00:00Z', 'the claim returns ripe_at');
SELECT is(:'c_enqueued_at'::timestamptz, '2030-02-01 00:00Z', 'the claim returns enqueued_at');
SELECT is(:'c_lease_until'::timestamptz, pgq_now() + '7 minutes', 'the lease begins at the claim');
SELECT results_eq(
    format('SELECT state, worker, claimed_at, lease_until, attempt FROM pgq_jobs WHERE id = %s', :c_id),
    $$ VALUES ('running', 'me', pgq_now(), pgq_now() + '7 minutes', 1) $$,
    'pgq_jobs shows which worker holds the job, and until when');
SELECT pgq_release(:c_id, :c_token);
SELECT isnt(c.token, :c_token::bigint, 'a second claim of a job has another token') FROM pgq_claim() AS c;
SELECT is(lease_until, pgq_now() + '5 minutes', 'a lease is five minutes by default') FROM pgq_jobs WHERE id = :c_id;

-- An UPDATE moves the row to another place in the table.
SELECT pgq_enqueue('moved', dedup_key => 'm');
SELECT pgq_enqueue('moved', '1', dedup_key => 'm', on_duplicate => 'replace');
SELECT results_eq('SELECT args FROM pgq_claim()', $$ VALUES ('1'::jsonb) $$, 'a claim returns a replaced job with its new args');

-- No further job once the args of those taken reach max_bytes: 3000 bytes lie out of line, and count as such.
SELECT pgq_enqueue('big', to_jsonb(repeat(n::text, CASE n WHEN 3 THEN 9000 ELSE 3000 END)), queue => 'big')
FROM generate_series(1, 6) AS n;
SELECT pgq_enqueue('small', queue => 'big', priority => 9);
SELECT results_eq(
    $$ SELECT left(c.args ->> 0, 1) FROM pgq_claim('{big}', 10, max_bytes => 6000) AS c $$, $$ VALUES ('1'), ('2') $$,
    'a claim takes no further job once the args of those taken reach max_bytes');
SELECT results_eq(
    $$ SELECT left(c.args ->> 0, 1) FROM pgq_claim('{big}', 10, max_bytes => 1) AS c $$, $$ VALUES ('3') $$,
    'a claim takes one job, however large');
SELECT results_eq(
    $$ SELECT left(c.args ->> 0, 1) FROM pgq_claim('{big}', 2, max_bytes => 100000) AS c $$, $$ VALUES ('4'), ('5') $$,
    'max_jobs counts as well as max_bytes');
SELECT results_eq(
    $$ SELECT c.kind FROM pgq_claim('{big}', 10, max_bytes => 4000) AS c $$, $$ VALUES ('big'), ('small') $$,
    'the next claims take the jobs that were left, in order');
SELECT pgq_enqueue('big', to_jsonb(repeat('x', 3000)), queue => 'big', dedup => false) FROM generate_series(1, 7);
SELECT is(count(*), 6::bigint, 'the default of max_bytes cuts no claim of ordinary jobs')
FROM (SELECT FROM pgq_claim('{big}', 6)) AS c;

SELECT col_not_null('pgq_running', 'token', 'every running job has a token');
SELECT is(
    (SELECT count(*) FROM pgq_jobs), (SELECT count(DISTINCT id) FROM pgq_jobs), 'no job is in two tables');

SELECT pgq_enqueue('typed');
SELECT row_eq(
    'SELECT pg_typeof(c.id)::text, pg_typeof(c.token)::text, pg_typeof(c.args)::text, pg_typeof(c.attempt)::text FROM pgq_claim() AS c',
    ROW('bigint'::text, 'bigint'::text, 'jsonb'::text, 'integer'::text), 'the columns of a claim have these types');
SELECT is_empty(
    $$ SELECT FROM pgq_claim() AS c WHERE c.id IS NULL $$, 'an empty claim returns no row rather than a row of NULLs');
SELECT is(
    (SELECT string_agg(parameter_name::text, ',' ORDER BY ordinal_position) FROM information_schema.parameters
     WHERE specific_name ~ '^pgq_claim_\d+$' AND parameter_mode = 'OUT' AND specific_schema = current_schema()),
    'id,token,queue,kind,args,attempt,max_retries,priority,ripe_at,enqueued_at,lease_until,context,suspect,group_key,saved', 'a claim has these columns');

SELECT * FROM finish();
ROLLBACK;
