-- Dedup: one waiting job for each signature.
BEGIN;
SELECT plan(39);
SET LOCAL pgq.now = '2030-01-01 12:00Z';

-- A case: enqueue, then enqueue again with something else. The second one is created or it is not.
CREATE FUNCTION pg_temp.second_is_created(VARIADIC jobs jsonb[]) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    v_created boolean;
    v_job jsonb;
BEGIN
    DELETE FROM pgq_waiting;
    FOREACH v_job IN ARRAY jobs LOOP
        SELECT e.created INTO v_created
        FROM jsonb_to_record(v_job) AS r (kind text, queue text, dedup_key text, dedup boolean),
             pgq_enqueue(coalesce(r.kind, 'k'), coalesce(v_job -> 'args', '{}'), coalesce(r.queue, 'default'),
                         dedup_key => r.dedup_key, dedup => r.dedup) AS e;
    END LOOP;
    RETURN v_created;
END
$$;
SELECT is(pg_temp.second_is_created(first, second), created, format('%s after %s: %s', second, first, why))
FROM (VALUES
    ('{"args": {"a": 1}}'::jsonb, '{"args": {"a": 1}}'::jsonb, false, 'the same kind and arguments are a duplicate'),
    ('{"args": {"a": 1}}', '{"kind": "other", "args": {"a": 1}}', true, 'the same arguments for another kind are not'),
    ('{"args": {"a": 1}}', '{"args": {"a": 2}}', true, 'other arguments are not'),
    ('{"args": {"a": 1}}', '{"queue": "q", "args": {"a": 1}}', true, 'another queue is not'),
    ('{"args": {"a": 1, "b": 2}}', '{"args": {"b":2,"a":1}}', false, 'key order and white space do not matter'),
    ('{"args": 1}', '{"args": 1.0}', true, '1 and 1.0 differ'),
    ('{"args": "1"}', '{"args": 1}', true, 'text and number differ'),
    ('{"args": null}', '{"args": {}}', true, 'null and empty differ'),
    ('{}', '{"args": {}}', false, 'no arguments are empty arguments'),
    ('{"dedup_key": "x", "args": 1}', '{"dedup_key": "x", "args": 2}', false, 'a key decides instead of the arguments'),
    ('{"dedup_key": "x"}', '{"dedup_key": "y"}', true, 'another key is another job'),
    ('{"dedup_key": "{}"}', '{"args": {}}', true, 'a key is never taken for arguments'),
    ('{"dedup_key": ""}', '{"args": {}}', true, 'an empty key is a key'),
    ('{"dedup_key": ""}', '{"dedup_key": ""}', false, 'the same empty key is the same'),
    ('{"kind": "ak", "dedup_key": "c"}', '{"kind": "a", "dedup_key": "kc"}', true, 'kind and key do not run together'),
    ('{"kind": "bc", "queue": "a"}', '{"kind": "c", "queue": "ab"}', true, 'queue and kind do not run together'),
    ('{"kind": "a", "args": "k"}', '{"kind": "aa", "args": "k"}', true, 'nor does the mark between them'),
    ('{"dedup": false}', '{"dedup": false}', true, 'without dedup there are no duplicates'),
    ('{"dedup": false}', '{}', true, 'a job without dedup is nobody''s twin'),
    ('{}', '{"dedup": false}', true, 'nor has it one')
) AS t (first, second, created, why);
SELECT is(pg_temp.second_is_created('{}', '{}', '{}'), false, 'the third is as much a duplicate as the second');

DELETE FROM pgq_waiting;
SELECT e.id AS first FROM pgq_enqueue('answer', '{"n": 1}') AS e \gset
SELECT results_eq($$ SELECT id, created FROM pgq_enqueue('answer', '{"n": 1}') $$, format('VALUES (%s::bigint, false)', :first),
                  'a duplicate is answered with the id of the job that waits');
SELECT is(count(*), 1::bigint, 'and adds none') FROM pgq_waiting;
SELECT is(count(signature), 1::bigint, 'what waits with dedup has a signature') FROM pgq_waiting;
SELECT is(signature, md5(E'default\x1fanswer\x1fa{"n": 1}')::uuid, 'which is an MD5 digest') FROM pgq_waiting;

-- A running twin does not count.
SELECT c.token AS token FROM pgq_claim() AS c \gset
SELECT e.id AS second, e.created AS created FROM pgq_enqueue('answer', '{"n": 1}') AS e \gset
SELECT is(:'created'::boolean, true, 'while its twin runs a job is new');
SELECT isnt(:second::bigint, :first::bigint, 'and has an id of its own');
SELECT results_eq('SELECT state FROM pgq_jobs ORDER BY id', $$ VALUES ('running'), ('waiting') $$, 'one runs, one waits');
SELECT pgq_complete(:first, :token);
SELECT is(state, 'waiting', 'and goes on waiting when the first is done') FROM pgq_jobs;

-- Policies.
CREATE FUNCTION pg_temp.policy(on_duplicate text, args jsonb, delay interval, priority integer) RETURNS SETOF pgq_waiting
    LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM pgq_waiting;
    PERFORM pgq_enqueue('p', '"old"', delay => '1 hour', priority => 5, max_retries => 3, backoff => '3 s', backoff_cap => '4 s',
                        dedup_key => 'p');
    UPDATE pgq_waiting SET attempt = 2, errors = '[{"attempt": 2}]', enqueued_at = '2029-01-01 00:00Z';
    PERFORM pgq_enqueue('p', args, delay => delay, priority => priority, max_retries => 7, backoff => '7 s', backoff_cap => '8 s',
                        dedup_key => 'p', on_duplicate => on_duplicate);
    RETURN QUERY SELECT * FROM pgq_waiting;
END
$$;
SELECT is((p.args, p.priority, p.ripe_at - pgq_now(), p.attempt, p.max_retries, p.backoff, p.backoff_cap, p.errors, p.enqueued_at)::text,
          (expected_args, expected_priority, expected_delay, 2, 3, interval '3 s', interval '4 s', '[{"attempt": 2}]'::jsonb, timestamptz '2029-01-01 00:00Z')::text,
          what)
FROM (VALUES
    ('keep keeps everything as it is', 'keep', interval '1 s', '"old"'::jsonb, 5, interval '1 hour'),
    ('replace replaces args, ripe_at and priority, and nothing else', 'replace', '2 hours', '"new"', 1, '2 hours'),
    ('soonest takes the sooner ripe_at, and nothing else', 'soonest', '1 s', '"old"', 5, '1 s'),
    ('soonest leaves a job that is sooner already', 'soonest', '2 hours', '"old"', 5, '1 hour')
) AS t (what, policy, delay, expected_args, expected_priority, expected_delay)
CROSS JOIN LATERAL pg_temp.policy(policy, '"new"', delay, 1) AS p;
SELECT throws_ok($$ SELECT pg_temp.policy('error', '"new"', '1 s', 1) $$, 'PGQ04', NULL, 'error raises');

SELECT pgq_enqueue('told');
SELECT throws_like($$ SELECT pgq_enqueue('told', on_duplicate => 'error') $$, 'job % is waiting already with this signature', 'the error tells which job');
SELECT throws_like($$ SELECT pgq_enqueue_many('[{"kind": "other"}, {"kind": "told", "on_duplicate": "error"}]') $$,
                   'job 2 of the array: job % is waiting already with this signature', 'and which of the array');
SELECT pgq_enqueue('traced', context => '{"t": 1}');
SELECT is(created, false, 'the context has no part in what makes twins') FROM pgq_enqueue('traced', context => '{"t": 2}');
SELECT is(context, '{"t": 1}', 'and the first one stays') FROM pgq_jobs WHERE kind = 'traced';
SELECT is(context, '{"t": 1}', 'which the claim hands out') FROM pgq_claim(max_jobs => 1000) WHERE kind = 'traced';

SELECT * FROM finish();
ROLLBACK;
