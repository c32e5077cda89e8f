-- Enqueueing: a job keeps the values that it was enqueued with.
BEGIN;
SELECT plan(23);
SET LOCAL pgq.now = '2030-01-01 12:00Z';

SELECT is(e.created, true, 'a new job is created') FROM pgq_enqueue('mail', '{"to": ["ann", {"x": null}], "ü": 1.50}') AS e;

SELECT is(c.args, '{"to": ["ann", {"x": null}], "ü": 1.50}', 'an immediate job is claimed with its arguments intact')
FROM pgq_claim() AS c;

CREATE FUNCTION pg_temp.round_trip(args jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgq_enqueue('parcel', args);
    RETURN (SELECT c.args FROM pgq_claim() AS c);
END
$$;
SELECT is(pg_temp.round_trip(sent), sent, format('%s is claimed unchanged', sent))
FROM (VALUES ('{}'::jsonb), ('[]'), ('[1, "two", [3]]'), ('"text"'), ('0'), ('true'), ('null')) AS parcel (sent);

SELECT pgq_enqueue('plain');
SELECT results_eq(
    $$ SELECT queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key, enqueued_at, errors
       FROM pgq_jobs WHERE kind = 'plain' $$,
    $$ VALUES ('default', 'plain', '{}'::jsonb, 5, pgq_now(), 0, 10, interval '1 minute', interval '1 hour', true, NULL::text,
               pgq_now(), '[]'::jsonb) $$,
    'an argument that is left out has its default');

SELECT pgq_enqueue('nulls', ripe_at => NULL, delay => NULL, priority => NULL, max_retries => NULL, backoff => NULL,
                   backoff_cap => NULL, dedup => NULL, dedup_key => NULL, on_duplicate => NULL);
SELECT results_eq(
    $$ SELECT priority, ripe_at, max_retries, backoff, backoff_cap, dedup FROM pgq_jobs WHERE kind = 'nulls' $$,
    $$ SELECT priority, ripe_at, max_retries, backoff, backoff_cap, dedup FROM pgq_jobs WHERE kind = 'plain' $$,
    'NULL for an optional argument means its default');

SELECT pgq_enqueue('full', '[1]', 'letters', delay => '90 minutes', priority => 9, max_retries => 0, backoff => '2 s',
                   backoff_cap => '1 year', dedup => false, dedup_key => 'k');
SELECT results_eq(
    $$ SELECT queue, args, priority, ripe_at, max_retries, backoff, backoff_cap, dedup, dedup_key FROM pgq_jobs WHERE kind = 'full' $$,
    $$ VALUES ('letters', '[1]'::jsonb, 9, timestamptz '2030-01-01 13:30Z', 0, interval '2 s', interval '1 year', false, 'k') $$,
    'every argument is stored');

SELECT pgq_enqueue('at', ripe_at => '2031-05-05 00:00Z');
SELECT is(ripe_at, '2031-05-05 00:00Z', 'ripe_at is stored') FROM pgq_jobs WHERE kind = 'at';

SELECT pgq_enqueue('past', ripe_at => '1999-01-01 00:00Z');
SELECT is(ripe_at, '1999-01-01 00:00Z', 'ripe_at may be in the past') FROM pgq_jobs WHERE kind = 'past';

-- One job through all the states.
SELECT e.id AS id FROM pgq_enqueue('traveller', queue => 'road', max_retries => 1, backoff => '0') AS e \gset
SET LOCAL pgq.jitter = '0';
SELECT is(c.id, :id::bigint, 'the id is the same when running') FROM pgq_claim('{road}') AS c;
SELECT is(outcome, 'retry', 'a failed job goes back to waiting')
FROM pgq_fail(:id, (SELECT token FROM pgq_running WHERE id = :id)) AS f;
SELECT is(c.id, :id::bigint, 'the id is the same when waiting again') FROM pgq_claim('{road}') AS c;
SELECT pgq_fail(:id, (SELECT token FROM pgq_running WHERE id = :id));
SELECT is(state, 'dead', 'the id is the same when dead') FROM pgq_jobs WHERE id = :id;
SELECT is(count(*), 1::bigint, 'a job is in one table only') FROM pgq_jobs WHERE id = :id;

SAVEPOINT before;
SELECT pgq_enqueue('regretted');
SELECT is(count(*), 1::bigint, 'a transaction sees the job that it has enqueued') FROM pgq_jobs WHERE kind = 'regretted';
ROLLBACK TO before;
SELECT is_empty($$ SELECT FROM pgq_jobs WHERE kind = 'regretted' $$, 'a rollback undoes the enqueue');

SELECT pgq_enqueue('again', queue => 'again');
SELECT pgq_complete(c.id, c.token) FROM pgq_claim('{again}') AS c;
SELECT is(e.created, true, 'a job can be enqueued again when it has ended') FROM pgq_enqueue('again', queue => 'again') AS e;

SELECT matches(pgq_version(), '^\d+\.\d+\.\d+$', 'pgq_version returns three numbers');

SELECT * FROM finish();
ROLLBACK;
