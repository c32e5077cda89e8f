-- The errors of a job go with it through all states, and are gone when it is.
BEGIN;
SELECT plan(52);
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SET LOCAL pgq.jitter = '0';

-- Jobs, and ids of jobs that are gone, whose errors are not those that newest_error stands for.
CREATE FUNCTION pg_temp.astray() RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(format('job %s: newest_error %s, %s errors up to %s', id, j.newest_error, e.count, e.newest), '; ')
    FROM (
        SELECT id, newest_error FROM pgq_waiting
        UNION ALL
        SELECT id, newest_error FROM pgq_running
        UNION ALL
        SELECT id, newest_error FROM pgq_ended
    ) AS j
    FULL JOIN (SELECT id, count(*), min(number) AS oldest, max(number) AS newest FROM pgq_error GROUP BY id) AS e USING (id)
    WHERE j.newest_error IS DISTINCT FROM e.newest OR e.newest - e.oldest >= 10
$$;
CREATE FUNCTION pg_temp.errors(id bigint) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(e.value ->> 'error', ', ' ORDER BY e.ordinality)
    FROM pgq_jobs AS j, jsonb_array_elements(j.errors) WITH ORDINALITY AS e
    WHERE j.id = errors.id
$$;
-- Claim a job and let it fail, so many times, a second after each other.
CREATE FUNCTION pg_temp.fails(id bigint, name text, times integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    c record;
BEGIN
    FOR v_n IN 1..times LOOP
        SELECT * INTO STRICT c FROM pgq_claim(max_jobs => 5) AS x WHERE x.id = fails.id;
        PERFORM pgq_fail(c.id, c.token, name || v_n, '0');
        PERFORM set_config('pgq.now', (pgq_now() + interval '1 second')::text, true);
    END LOOP;
END
$$;

-- Let a job that has failed twice go one way. Return the errors of the job, or of the twin that it has merged into, and
-- what is astray.
CREATE FUNCTION pg_temp.goes(way text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_id bigint;
    v_twin bigint;
    c record;
BEGIN
    DELETE FROM pgq_waiting;
    DELETE FROM pgq_running;
    DELETE FROM pgq_ended;
    DELETE FROM pgq_error;
    DELETE FROM pgq_cancel_request;
    PERFORM set_config('pgq.now', '2030-01-01 12:00Z', true);
    v_id := (SELECT e.id FROM pgq_enqueue('k', max_retries => CASE way WHEN 'dies' THEN 2 ELSE 9 END) AS e);
    PERFORM pg_temp.fails(v_id, 'e', 2);
    IF way NOT LIKE '%waits' THEN
        SELECT * INTO STRICT c FROM pgq_claim(worker => 'tap');
    END IF;
    PERFORM set_config('pgq.now', '2030-01-01 12:01Z', true);
    IF way LIKE '%into a twin' THEN
        v_twin := (SELECT e.id FROM pgq_enqueue('k') AS e);
    END IF;
    CASE way
        WHEN 'waits', 'runs' THEN NULL;
        WHEN 'is done' THEN PERFORM pgq_complete(c.id, c.token);
        WHEN 'is done with others' THEN PERFORM pgq_complete_many(ARRAY[c.id], ARRAY[c.token]);
        WHEN 'is done with a result' THEN PERFORM pgq_complete(c.id, c.token, '1');
        WHEN 'is done with a note' THEN PERFORM pgq_complete(c.id, c.token, NULL, 'note');
        WHEN 'fails', 'dies', 'fails into a twin' THEN PERFORM pgq_fail(c.id, c.token, 'e3');
        WHEN 'is released', 'is released into a twin' THEN PERFORM pgq_release(c.id, c.token);
        WHEN 'is snoozed', 'is snoozed into a twin' THEN PERFORM pgq_snooze(c.id, c.token, delay => '1 hour');
        WHEN 'is declined', 'is declined into a twin' THEN PERFORM pgq_decline(c.id, c.token);
        WHEN 'is cancelled by its worker' THEN PERFORM pgq_cancel_claimed(c.id, c.token, 'why');
        WHEN 'is cancelled while it waits' THEN PERFORM pgq_cancel(v_id);
        WHEN 'is cancelled, and purged while it waits' THEN
            PERFORM pgq_cancel(v_id);
            PERFORM pgq_purge('0');
        WHEN 'is cancelled, and fails' THEN
            PERFORM pgq_cancel(v_id);
            PERFORM pgq_fail(c.id, c.token, 'e3');
        WHEN 'is cancelled, and is released', 'is retried by hand', 'is retried by hand into a twin' THEN
            PERFORM pgq_cancel(v_id);
            PERFORM pgq_release(c.id, c.token);
        WHEN 'is cancelled too late for its release' THEN
            PERFORM pgq_release(c.id, c.token);
            INSERT INTO pgq_cancel_request VALUES (v_id, pgq_now());
            PERFORM _pgq_settle_cancel_requests(pgq_now());
        WHEN 'is cancelled after its lease' THEN
            UPDATE pgq_running SET lease_until = pgq_now() - interval '1 microsecond';
            PERFORM pgq_cancel(v_id);
        WHEN 'is rescued', 'is rescued into a twin' THEN
            UPDATE pgq_running SET lease_until = pgq_now() - interval '1 microsecond';
            PERFORM pgq_claim('{elsewhere}');
        WHEN 'is lost together with another one' THEN
            PERFORM pgq_enqueue('other');
            PERFORM pgq_claim(worker => 'tap');
            UPDATE pgq_running SET lease_until = pgq_now() - interval '1 microsecond';
            PERFORM pgq_claim('{elsewhere}');
        WHEN 'is given back', 'is given back into a twin' THEN PERFORM pgq_reconcile('tap', '{}', '{}');
        WHEN 'is claimed in a batch' THEN
            PERFORM pgq_release(c.id, c.token);
            PERFORM pgq_claim_batch();
        WHEN 'is enqueued again while it waits' THEN PERFORM pgq_enqueue('k', on_duplicate => 'replace');
    END CASE;
    IF way LIKE 'is retried by hand%' THEN
        PERFORM pgq_retry(v_id);
    END IF;
    RETURN concat_ws('; astray: ', pg_temp.errors(coalesce(v_twin, v_id)), pg_temp.astray());
END
$$;
SELECT pgq_register('tap');

SELECT is(pg_temp.goes(way), kept, format('a job that %s: %s', way, coalesce('these errors are kept: ' || nullif(kept, ''), 'no error is left')))
FROM (VALUES
    ('waits', 'e2, e1'), ('runs', 'e2, e1'), ('is claimed in a batch', 'e2, e1'),
    ('is done', ''), ('is done with others', ''), ('is cancelled, and purged while it waits', ''),
    ('is done with a result', 'e2, e1'), ('is done with a note', 'note, e2, e1'),
    ('fails', 'e3, e2, e1'), ('dies', 'e3, e2, e1'), ('fails into a twin', 'e3, e2, e1'),
    ('is released', 'e2, e1'), ('is released into a twin', 'e2, e1'),
    ('is snoozed', 'e2, e1'), ('is snoozed into a twin', 'e2, e1'),
    ('is declined', 'the worker has no handler for kind "k", e2, e1'), ('is declined into a twin', 'the worker has no handler for kind "k", e2, e1'),
    ('is cancelled by its worker', 'why, e2, e1'), ('is cancelled, and fails', 'e3, e2, e1'), ('is cancelled, and is released', 'e2, e1'),
    ('is cancelled too late for its release', 'e2, e1'), ('is cancelled after its lease', 'the lease ran out, e2, e1'),
    ('is cancelled while it waits', 'e2, e1'), ('is enqueued again while it waits', 'e2, e1'),
    ('is rescued', 'the lease ran out, e2, e1'), ('is rescued into a twin', 'the lease ran out, e2, e1'),
    ('is lost together with another one', 'e2, e1'),
    ('is given back', 'e2, e1'), ('is given back into a twin', 'e2, e1'),
    ('is retried by hand', 'e2, e1'), ('is retried by hand into a twin', 'e2, e1')
) AS t (way, kept);

-- The newest ten.
DELETE FROM pgq_waiting;
DELETE FROM pgq_running;
DELETE FROM pgq_ended;
DELETE FROM pgq_error;
SELECT id AS job FROM pgq_enqueue('k', max_retries => 99) \gset
SELECT pg_temp.fails(:job, 'e', 12);
SELECT is(pg_temp.errors(:job), 'e12, e11, e10, e9, e8, e7, e6, e5, e4, e3', 'the newest ten errors are kept, newest first');
SELECT is(count(*), 10::bigint, 'an eleventh error takes the place of the oldest') FROM pgq_error;
SET LOCAL pgq.now = '2029-12-31 12:00Z';
UPDATE pgq_waiting SET ripe_at = pgq_now();
SELECT pg_temp.fails(:job, 'set back ', 1);
SELECT is(pg_temp.errors(:job), 'set back 1, e12, e11, e10, e9, e8, e7, e6, e5, e4', 'the last error is the newest, also after the clock was set back');
SELECT pgq_decline(id, token) FROM pgq_claim();
SELECT is(left(pg_temp.errors(:job), 60), 'the worker has no handler for kind "k", set back 1, e12, e11', 'a note is one of the ten');
SELECT is(pg_temp.astray(), NULL, 'and takes the place of the oldest');
SET LOCAL pgq.now = '2029-12-31 13:00Z';
UPDATE pgq_waiting SET ripe_at = pgq_now();
SELECT pgq_decline(id, token) FROM pgq_claim();
SELECT is((SELECT array_agg(declined ORDER BY number) FROM pgq_error), '{NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,2}', 'the next note takes the place of this one');
SELECT is(at, pgq_now(), 'and has its own time') FROM pgq_error WHERE declined IS NOT NULL;

-- Merging.
DELETE FROM pgq_waiting;
DELETE FROM pgq_error;
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SELECT id AS job FROM pgq_enqueue('k', max_retries => 99) \gset
SELECT pg_temp.fails(:job, 'job ', 12);
SELECT token AS token FROM pgq_claim() \gset
SET LOCAL pgq.now = '2030-01-01 12:00:08Z';
SELECT id AS twin FROM pgq_enqueue('k', max_retries => 99) \gset
SELECT pg_temp.fails(:twin, 'twin ', 2);
SELECT pgq_release(:job, :token);
SELECT is(pg_temp.errors(:twin), 'job 12, job 11, job 10, twin 2, job 9, twin 1, job 8, job 7, job 6, job 5',
    'of the errors of two jobs the newest ten are kept, and of two at the same time that of the job stands before that of its twin');
SELECT is(pg_temp.astray(), NULL, 'and no other');
SET LOCAL pgq.now = '2030-01-01 12:01Z';
SELECT pg_temp.fails(:twin, 'later ', 1);
SELECT is(pg_temp.errors(:twin), 'later 1, job 12, job 11, job 10, twin 2, job 9, twin 1, job 8, job 7, job 6', 'a later failure takes the place of the oldest of both');
SELECT is(pg_temp.astray(), NULL, 'which is gone');
SELECT c.id AS job, c.token AS token FROM pgq_claim() AS c \gset
SELECT id AS twin FROM pgq_enqueue('k', max_retries => 99) \gset
SELECT pgq_release(:job, :token);
SELECT is(pg_temp.errors(:twin), 'later 1, job 12, job 11, job 10, twin 2, job 9, twin 1, job 8, job 7, job 6', 'what has merged merges again');
SELECT is(pg_temp.astray(), NULL, 'with all its errors');
SELECT pgq_complete(id, token) FROM pgq_claim();
SELECT is_empty('SELECT FROM pgq_error', 'and when it is done, all are gone');

SELECT id AS job FROM pgq_enqueue('k', max_retries => 99) \gset
SELECT pg_temp.fails(:job, 'job ', 1);
SELECT token AS token FROM pgq_claim() \gset
SELECT id AS twin FROM pgq_enqueue('k', max_retries => 99) \gset
SELECT pg_temp.fails(:twin, 'twin ', 24);
SELECT pgq_fail(:job, :token, 'job 2', '0');
SELECT is(pg_temp.errors(:twin), 'job 2, twin 24, twin 23, twin 22, twin 21, twin 20, twin 19, twin 18, twin 17, twin 16', 'the oldest make room in a twin that has more errors, too');
SELECT is(pg_temp.astray(), NULL, 'and are gone');
SELECT pgq_complete(id, token) FROM pgq_claim();
SELECT c.id AS job, c.token AS token FROM pgq_enqueue('k'), pgq_claim() AS c \gset
SELECT id AS twin FROM pgq_enqueue('k', max_retries => 99) \gset
SELECT pg_temp.fails(:twin, 'twin ', 2);
SELECT pgq_snooze(:job, :token, delay => '1 hour');
SELECT is(pg_temp.errors(:twin), 'twin 2, twin 1', 'a job without errors leaves those of its twin as they are');
SELECT is(pg_temp.astray(), NULL, 'and their numbers');

-- A call about several jobs.
DELETE FROM pgq_waiting;
DELETE FROM pgq_error;
SELECT array_agg(e.id) AS ids FROM generate_series(1, 4) AS n, pgq_enqueue('several', to_jsonb(n)) AS e \gset
SELECT pgq_fail(id, token, args::text, '0') FROM pgq_claim(max_jobs => 3);
SELECT max(token) AS token FROM pgq_claim(max_jobs => 4) \gset
SELECT pgq_complete_many((:'ids'::bigint[])[2:4], ARRAY[:token, 1, :token]);
SELECT is((SELECT array_agg(error ORDER BY id) FROM pgq_error), '{1,3}', 'pgq_complete_many deletes the errors of the jobs that it ends, and no others');
SELECT is(pg_temp.astray(), NULL, 'so none is astray');

-- As a reader of some queues to which the owner has granted the whole view by hand.
CREATE ROLE tap_reads;
SELECT pgq_grant('tap_reads', 'reader', '{default}');
SELECT format('GRANT SELECT ON %I.pgq_jobs TO tap_reads', current_schema()) \gexec
SET LOCAL ROLE tap_reads;
SELECT set_config('tap.seen', (SELECT format('%s jobs, errors: %s', count(*), string_agg(errors::text, ' ')) FROM pgq_jobs), true);
RESET ROLE;
SELECT is(current_setting('tap.seen'), '2 jobs, errors: ', 'a role that is no admin of a queue reads no errors of its jobs');

SELECT * FROM finish();
ROLLBACK;
