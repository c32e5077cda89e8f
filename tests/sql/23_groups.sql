-- Jobs with a group: how they are enqueued and claimed, and that the group stays theirs on every way.
BEGIN;
SELECT plan(34);
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SET LOCAL pgq.jitter = '0';

SELECT is(_pgq_group_id(NULL), NULL::bigint, 'a job without a group has no number');
SELECT cmp_ok(min(_pgq_group_id(n::text)), '>', 0::bigint, 'the number of a group is greater than 0')
FROM generate_series(1, 10000) AS n;
SELECT is(count(DISTINCT _pgq_group_id(n::text)), 10000::bigint, 'ten thousand keys have as many numbers')
FROM generate_series(1, 10000) AS n;

-- A rollback takes no mark back, so those of other files are still there.
SELECT setval('pgq_mark', 0);
SELECT is(bit_or(_pgq_mark_of(n::text)), -1::bigint, 'each bit is the mark of some queue') FROM generate_series(1, 10000) AS n;
SELECT pgq_enqueue('k', queue => 'plain');
SELECT is(_pgq_marks(), 0::bigint, 'a job without a group marks no queue');
SAVEPOINT before;
SELECT pgq_enqueue('k', queue => 'b', group_key => 'a');
ROLLBACK TO before;
SELECT is(_pgq_marks(), _pgq_mark_of('b'), 'one with a group marks its queue, also if it is rolled back');
SELECT pgq_enqueue_many('[{"kind": "k", "queue": "c", "group_key": "a"}, {"kind": "k", "queue": "d"}]');
SELECT is(_pgq_marks(), _pgq_mark_of('b') | _pgq_mark_of('c'), 'so does pgq_enqueue_many, and keeps the marks of others');
SELECT pgq_enqueue_many('[{"kind": "k", "queue": "plain", "group_key": "a"}]');
SELECT is(_pgq_marks(), _pgq_mark_of('b') | _pgq_mark_of('c') | _pgq_mark_of('plain'), 'a duplicate marks its queue, because it may become a job');
SELECT setval('pgq_mark', _pgq_mark_of('b') | _pgq_mark_of('c'));
SELECT pgq_enqueue('k', queue => 'c', group_key => 'a');
SELECT is(_pgq_marks(), _pgq_mark_of('b') | _pgq_mark_of('c'), 'a mark stays');
DELETE FROM pgq_waiting;

-- Each way back to waiting, or to an end.
SELECT id AS first FROM pgq_enqueue('k', group_key => 'a') \gset
SELECT results_eq(
    'SELECT group_key, group_id FROM pgq_waiting', $$VALUES ('a', _pgq_group_id('a'))$$, 'a job waits with its group');
SELECT id AS id, token AS token, group_key AS group_key FROM pgq_claim() \gset
SELECT is(ARRAY[:'id', :'group_key'], ARRAY[:'first', 'a'], 'a claim returns it with its group');
SELECT results_eq(
    'SELECT group_key, group_id FROM pgq_running', $$VALUES ('a', NULL::bigint)$$, 'it runs with its group, and does not count');
SELECT pgq_release(:id, :token);
SELECT results_eq(
    'SELECT group_key, group_id FROM pgq_waiting', $$VALUES ('a', _pgq_group_id('a'))$$, 'a release keeps the group');
SELECT id AS id, token AS token FROM pgq_claim() \gset
SELECT pgq_fail(:id, :token, retry => false);
SELECT results_eq(
    'SELECT group_key, group_id FROM pgq_ended', $$VALUES ('a', _pgq_group_id('a'))$$, 'a dead job keeps the group');
SELECT is(group_key, 'a', 'the view shows it') FROM pgq_jobs;
SELECT pgq_retry(:id);
SELECT results_eq(
    'SELECT group_key, group_id FROM pgq_waiting', $$VALUES ('a', _pgq_group_id('a'))$$, 'a retry by hand keeps the group');
SELECT pgq_cancel(:id);
SELECT results_eq(
    'SELECT group_key, group_id FROM pgq_ended', $$VALUES ('a', _pgq_group_id('a'))$$, 'a cancelled job keeps the group');
DELETE FROM pgq_ended;

SELECT pgq_enqueue('k');
SELECT id AS id, token AS token FROM pgq_claim() \gset
SELECT results_eq(
    'SELECT group_key, group_id FROM pgq_running', 'VALUES (NULL::text, NULL::bigint)', 'a job without a group runs without a number');
SELECT pgq_fail(:id, :token, retry => false);
SELECT results_eq(
    'SELECT group_key, group_id FROM pgq_ended', 'VALUES (NULL::text, NULL::bigint)', 'it ends without one');
DELETE FROM pgq_ended;

-- Twins: the group has no part in what makes them, and none takes that of another.
SELECT pgq_enqueue('k', group_key => 'a');
SELECT is(created, false, 'a job with another group is a duplicate all the same') FROM pgq_enqueue('k', group_key => 'b', on_duplicate => 'replace');
SELECT is(group_key, 'a', 'replace leaves the group as it is') FROM pgq_waiting;
SELECT id AS id, token AS token FROM pgq_claim() \gset
SELECT pgq_enqueue('k', group_key => 'b');
SELECT is(outcome, 'merged', 'a job merges into a twin of another group') FROM pgq_fail(:id, :token);
SELECT results_eq('SELECT group_key, group_id FROM pgq_waiting', $$VALUES ('b', _pgq_group_id('b'))$$, 'which keeps its own');
DELETE FROM pgq_waiting;

-- Many at once, among them a duplicate whose twin waits.
SELECT pgq_enqueue('k', '1', group_key => 'a');
CREATE TEMP TABLE many AS
SELECT * FROM pgq_enqueue_many('[{"kind": "k", "args": 1, "group_key": "b"}, {"kind": "k", "args": 2, "group_key": "b"},
    {"kind": "k", "args": 3, "dedup": false, "group_key": "c"}, {"kind": "k", "args": 4, "group_key": null}]');
SELECT results_eq($$
    SELECT m.n, m.created, w.group_key, w.group_id IS NOT DISTINCT FROM _pgq_group_id(w.group_key)
    FROM many AS m JOIN pgq_waiting AS w USING (id) ORDER BY m.n
$$, $$VALUES (1::bigint, false, 'a', true), (2, true, 'b', true), (3, true, 'c', true), (4, true, NULL, true)$$,
    'pgq_enqueue_many takes groups');
SELECT throws_ok($$SELECT pgq_enqueue_many('[{"kind": "k", "group_key": ""}]')$$, '22023', 'job 1 of the array: group_key "" is not a name');
SELECT is(ripe_in, interval '0', 'pgq_remaining finds them') FROM pgq_remaining();
DELETE FROM pgq_waiting WHERE group_id IS NULL;
SELECT is(pgq_ripe_in(), interval '0', 'pgq_ripe_in finds them');
SELECT is(count(*), 3::bigint, 'all of them are claimed') FROM pgq_claim(max_jobs => 100);

-- Of jobs without a group, 9 would be packed.
DELETE FROM pgq_running;
SELECT pgq_enqueue('k', to_jsonb(n), group_key => CASE WHEN n > 9 THEN 'a' END) FROM generate_series(1, 10) AS n;
SELECT pgq_claim_batch(max_jobs => 10);
SELECT results_eq(
    'SELECT count(*), (SELECT count(*) FROM pgq_running_batch) FROM pgq_running', 'VALUES (10::bigint, 0::bigint)',
    'a batch with a grouped job is not packed');

-- A suspect is claimed alone, in its group, too. Other tests have left the turns of the queues where they are.
SELECT setval(format('pgq_turn_%s', n)::regclass, 0, false) FROM generate_series(0, 7) AS n;
DELETE FROM pgq_running;
SELECT pgq_enqueue('k', to_jsonb(n), group_key => 'a') FROM generate_series(1, 3) AS n;
UPDATE pgq_waiting SET losses = 1 WHERE args = '1';
SELECT is(array_agg(args), ARRAY['1'::jsonb], 'a suspect with a group is claimed alone') FROM pgq_claim(max_jobs => 10);

DELETE FROM pgq_running;
SELECT pgq_enqueue('k', '4');
UPDATE pgq_waiting SET losses = 1 WHERE args = '4';
UPDATE pgq_waiting SET losses = NULL WHERE args <> '4';
SELECT is(array_agg(args), ARRAY['4'::jsonb], 'so is one without, beside jobs with a group') FROM pgq_claim(max_jobs => 10);
SELECT pgq_enqueue('k', '5');
SELECT is(count(*), 1::bigint, 'jobs that reach max_bytes leave the others, with a group or without') FROM pgq_claim(max_jobs => 10, max_bytes => 1);
SELECT is(count(*), 2::bigint, 'the others are claimed later') FROM pgq_claim(max_jobs => 10);

-- A claim takes as many as it can, also where the groups that it has met first are those that have nothing for it.
SELECT pgq_enqueue('k', to_jsonb(n), 'shares', group_key => 'a') FROM generate_series(1, 2) AS n;
SELECT pgq_enqueue('k', '3', 'shares', delay => '1 hour');
SELECT is(count(*), 2::bigint, 'what a group leaves of its share goes to the one before it') FROM pgq_claim('{shares}', 2);

SELECT * FROM finish();
ROLLBACK;
