-- Deduplication: at most one waiting job for each signature.
BEGIN;
SELECT plan(39);
SET LOCAL pgq.now = '2030-01-01 12:00Z';

-- Enqueue jobs that differ in the given keys, and return whether the last one was created.
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
    ('{"args": {"a": 1}}'::jsonb, '{"args": {"a": 1}}'::jsonb, false, 'the same kind and args are a duplicate'),
    ('{"args": {"a": 1}}', '{"kind": "other", "args": {"a": 1}}', true, 'the same args for another kind are not a duplicate'),
    ('{"args": {"a": 1}}', '{"args": {"a": 2}}', true, 'other args are not a duplicate'),
    ('{"args": {"a": 1}}', '{"queue": "q", "args": {"a": 1}}', true, 'a job in another queue is not a duplicate'),
    ('{"args": {"a": 1, "b": 2}}', '{"args": {"b":2,"a":1}}', false, 'key order and white space do not matter'),
    ('{"args": 1}', '{"args": 1.0}', true, 'the numbers 1 and 1.0 differ'),
    ('{"args": "1"}', '{"args": 1}', true, 'a text and a number differ'),
    ('{"args": null}', '{"args": {}}', true, 'null and an empty object differ'),
    ('{}', '{"args": {}}', false, 'args that are left out are an empty object'),
    ('{"dedup_key": "x", "args": 1}', '{"dedup_key": "x", "args": 2}', false, 'dedup_key decides instead of args'),
    ('{"dedup_key": "x"}', '{"dedup_key": "y"}', true, 'another dedup_key makes another job'),
    ('{"dedup_key": "{}"}', '{"args": {}}', true, 'a dedup_key is never taken for args'),
    ('{"dedup_key": ""}', '{"args": {}}', true, 'an empty dedup_key is a key'),
    ('{"dedup_key": ""}', '{"dedup_key": ""}', false, 'two empty dedup_keys are equal'),
    ('{"kind": "ak", "dedup_key": "c"}', '{"kind": "a", "dedup_key": "kc"}', true, 'kind and dedup_key are kept apart'),
    ('{"kind": "bc", "queue": "a"}', '{"kind": "c", "queue": "ab"}', true, 'queue and kind are kept apart'),
    ('{"kind": "a", "args": "k"}', '{"kind": "aa", "args": "k"}', true, 'the letter before args or dedup_key is kept apart from the kind'),
    ('{"dedup": false}', '{"dedup": false}', true, 'two jobs without dedup are not duplicates'),
    ('{"dedup": false}', '{}', true, 'a job without dedup is not a twin of a later one'),
    ('{}', '{"dedup": false}', true, 'a job without dedup has no twin')
) AS t (first, second, created, why);
SELECT is(pg_temp.second_is_created('{}', '{}', '{}'), false, 'a third job is a duplicate like the second');

DELETE FROM pgq_waiting;
SELECT e.id AS first FROM pgq_enqueue('answer', '{"n": 1}') AS e \gset
SELECT results_eq($$ SELECT id, created FROM pgq_enqueue('answer', '{"n": 1}') $$, format('VALUES (%s::bigint, false)', :first),
                  'an enqueue of a duplicate returns the id of the waiting job');
SELECT is(count(*), 1::bigint, 'an enqueue of a duplicate adds no job') FROM pgq_waiting;
SELECT is(count(signature), 1::bigint, 'a waiting job with dedup has a signature') FROM pgq_waiting;
SELECT is(signature, md5(E'default\x1fanswer\x1fa{"n": 1}')::uuid, 'the signature is the MD5 of queue, kind and args') FROM pgq_waiting;

-- A running twin does not count.
SELECT c.token AS token FROM pgq_claim() AS c \gset
SELECT e.id AS second, e.created AS created FROM pgq_enqueue('answer', '{"n": 1}') AS e \gset
SELECT is(:'created'::boolean, true, 'a job is created although a twin is running');
SELECT isnt(:second::bigint, :first::bigint, 'a job with a running twin has its own id');
SELECT results_eq('SELECT state FROM pgq_jobs ORDER BY id', $$ VALUES ('running'), ('waiting') $$, 'of two twins one runs and one waits');
SELECT pgq_complete(:first, :token);
SELECT is(state, 'waiting', 'the waiting twin still waits when the running one has ended') FROM pgq_jobs;

-- The values of on_duplicate.
CREATE FUNCTION pg_temp.policy(on_duplicate text, args jsonb, delay interval, priority integer) RETURNS SETOF pgq_waiting
    LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM pgq_waiting;
    PERFORM pgq_enqueue('p', '"old"', delay => '1 hour', priority => 5, max_retries => 3, backoff => '3 s', backoff_cap => '4 s',
                        dedup_key => 'p');
    UPDATE pgq_waiting SET attempt = 2, newest_error = 2, enqueued_at = '2029-01-01 00:00Z';
    PERFORM pgq_enqueue('p', args, delay => delay, priority => priority, max_retries => 7, backoff => '7 s', backoff_cap => '8 s',
                        dedup_key => 'p', on_duplicate => on_duplicate);
    RETURN QUERY SELECT * FROM pgq_waiting;
END
$$;
SELECT is((p.args, p.priority, p.ripe_at - pgq_now(), p.attempt, p.max_retries, p.backoff, p.backoff_cap, p.newest_error, p.enqueued_at)::text,
          (expected_args, expected_priority, expected_delay, 2, 3, interval '3 s', interval '4 s', 2, timestamptz '2029-01-01 00:00Z')::text,
          what)
FROM (VALUES
    ('keep leaves the waiting job as it is', 'keep', interval '1 s', '"old"'::jsonb, 5, interval '1 hour'),
    ('replace replaces args, ripe_at and priority, and nothing else', 'replace', '2 hours', '"new"', 1, '2 hours'),
    ('soonest takes an earlier ripe_at, and nothing else', 'soonest', '1 s', '"old"', 5, '1 s'),
    ('soonest leaves a job that is ripe earlier as it is', 'soonest', '2 hours', '"old"', 5, '1 hour')
) AS t (what, policy, delay, expected_args, expected_priority, expected_delay)
CROSS JOIN LATERAL pg_temp.policy(policy, '"new"', delay, 1) AS p;
SELECT throws_ok($$ SELECT pg_temp.policy('error', '"new"', '1 s', 1) $$, 'PGQ04', NULL, 'error raises PGQ04');

SELECT pgq_enqueue('told');
SELECT throws_like($$ SELECT pgq_enqueue('told', on_duplicate => 'error') $$, 'job % is waiting already with this signature', 'the error of pgq_enqueue has the id of the waiting job');
SELECT throws_like($$ SELECT pgq_enqueue_many('[{"kind": "other"}, {"kind": "told", "on_duplicate": "error"}]') $$,
                   'job 2 of the array: job % is waiting already with this signature', 'the error of pgq_enqueue_many has the place in the array, too');
SELECT pgq_enqueue('traced', context => '{"t": 1}');
SELECT is(created, false, 'the context has no part in what makes twins') FROM pgq_enqueue('traced', context => '{"t": 2}');
SELECT is(context, '{"t": 1}', 'keep leaves the context of the waiting job as it is') FROM pgq_jobs WHERE kind = 'traced';
SELECT is(context, '{"t": 1}', 'the claim returns the context') FROM pgq_claim(max_jobs => 1000) WHERE kind = 'traced';

SELECT * FROM finish();
ROLLBACK;
