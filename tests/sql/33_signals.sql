-- pgq_signal and pgq_wait_signal: an event for a job.
BEGIN;
SELECT plan(52);
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SET LOCAL pgq.jitter = '0';

-- The wait comes first.
SELECT * FROM pgq_enqueue('order', '1') \gset
SELECT token FROM pgq_claim() \gset
SELECT results_eq(format('SELECT outcome, payload, until FROM pgq_wait_signal(%s, %s, ''paid'', ''1 day'')', :id, :token),
    $$ VALUES ('waiting', NULL::jsonb, timestamptz '2030-01-02 12:00Z') $$, 'a job that waits for a signal is put back until the timeout');
SELECT results_eq(format('SELECT state, attempt, ripe_at, waits_for_signal FROM pgq_jobs WHERE id = %s', :id),
    $$ VALUES ('waiting', 0, timestamptz '2030-01-02 12:00Z', 'paid') $$, 'its attempt does not count, and pgq_jobs shows what it waits for');
SELECT is_empty('SELECT FROM pgq_claim()', 'no worker takes it meanwhile');
SELECT is(pgq_signal(:id, 'shipped'), true, 'it may get another signal');
SELECT is_empty('SELECT FROM pgq_claim()', 'which does not wake it');
SELECT is(pgq_signal(:id, 'paid', '{"by": "card"}'), true, 'the first signal of a name is taken');
SELECT is(pgq_signal(:id, 'paid', '{"by": "cash"}'), false, 'the second one is not');
SELECT token, waits AS again FROM (SELECT token, (SELECT waits_for_signal FROM pgq_jobs WHERE id = c.id) IS NULL AS waits FROM pgq_claim() AS c) AS t \gset
SELECT ok(:'again', 'the job is ripe at once, and waits no longer');
SELECT results_eq(format('SELECT outcome, payload FROM pgq_wait_signal(%s, %s, ''paid'', ''1 day'')', :id, :token),
    $$ VALUES ('received', '{"by": "card"}'::jsonb) $$, 'its next attempt receives the first signal');
SELECT is(state, 'running', 'and goes on') FROM pgq_jobs WHERE id = :id;
SELECT results_eq(format('SELECT outcome, payload FROM pgq_wait_signal(%s, %s, ''shipped'', ''0'')', :id, :token),
    $$ VALUES ('received', NULL::jsonb) $$, 'a signal without a payload has NULL, and a timeout of 0 only reads');
SELECT is(outcome, 'timeout', 'a timeout of 0 does not put the job back') FROM pgq_wait_signal(:id, :token, 'other', '0');
SELECT is(state, 'running', 'so it runs on') FROM pgq_jobs WHERE id = :id;
SELECT pgq_complete(:id, :token);
SELECT is((SELECT count(*) FROM pgq_job_signal) + (SELECT count(*) FROM pgq_signal_wait), 0::bigint, 'completing a job that has waited deletes its signals');

-- The signal comes first.
SELECT id AS early FROM pgq_enqueue('early') \gset
SELECT pgq_signal(:early, 'go', '1');
SELECT token FROM pgq_claim() \gset
SELECT is(outcome || payload::text, 'received1', 'a signal may come before the wait') FROM pgq_wait_signal(:early, :token, 'go');
SELECT pgq_signal(:early, 'now', '2');
SELECT is(outcome || payload::text, 'received2', 'and while the job runs') FROM pgq_wait_signal(:early, :token, 'now');

-- The timeout.
SELECT outcome FROM pgq_wait_signal(:early, :token, 'never', '1 hour') \gset
UPDATE pgq_waiting SET ripe_at = pgq_now();
SELECT token FROM pgq_claim() \gset
SELECT results_eq(format('SELECT outcome, until FROM pgq_wait_signal(%s, %s, ''never'', ''0'')', :early, :token),
    $$ VALUES ('timeout', timestamptz '2030-01-01 13:00Z') $$, 'a timeout of 0 does not put a job back that has waited before, and tells until when');
SELECT outcome FROM pgq_wait_signal(:early, :token, 'never', '2 hours') \gset
SET LOCAL pgq.now = '2030-01-01 13:00Z';
SELECT token FROM pgq_claim() \gset
SELECT is(outcome, 'timeout', 'after the timeout the next attempt is told so') FROM pgq_wait_signal(:early, :token, 'never', '1 hour');
SELECT pgq_fail(:early, :token, 'e', '0');
SELECT token FROM pgq_claim() \gset
SELECT is(outcome, 'timeout', 'and so are later ones: the timeout begins once') FROM pgq_wait_signal(:early, :token, 'never', '5 hours');
SELECT is(outcome || until::text, 'waiting' || timestamptz '2130-01-01 13:00Z', 'without a timeout a job waits for a hundred years')
FROM pgq_wait_signal(:early, :token, 'ever') AS w (outcome, payload, until);
SELECT pgq_signal(:early, 'ever');
SELECT token FROM pgq_claim() \gset
SELECT is(outcome, 'received', 'unless it gets the signal') FROM pgq_wait_signal(:early, :token, 'ever');
SELECT pgq_fail(:early, :token, 'e', '10 minutes');
SELECT pgq_signal(:early, 'some');
SELECT is_empty('SELECT FROM pgq_claim()', 'a job that is put back for another reason is not woken');

-- What ends a job.
SELECT pgq_cancel(:early);
SELECT throws_ok(format('SELECT pgq_signal(%s, ''x'')', :early), 'PGQ03', format('job %s is cancelled and gets no signal', :early), 'a job that has ended gets no signal');
SELECT is(count(*), 4::bigint, 'but keeps those that it has got') FROM pgq_job_signal;
SELECT pgq_purge('0');
SELECT is_empty('SELECT FROM pgq_job_signal', 'until it is deleted');
SELECT throws_ok(format('SELECT pgq_signal(%s, ''x'')', :early), 'PGQ01', format('there is no job %s', :early), 'a job that is gone gets none');
SELECT throws_ok('SELECT pgq_signal(NULL, ''x'')', 'PGQ01', 'there is no job null', 'nor does NULL');
SELECT id AS other FROM pgq_enqueue('other') \gset
SELECT throws_ok(format('SELECT pgq_signal(%s, NULL)', :other), '22004', 'name is null', 'a signal has a name');
SELECT throws_ok(format('SELECT pgq_signal(%s, '''')', :other), '22023', 'signal "" is not a name', 'which is not empty');
SELECT throws_ok(format('SELECT pgq_signal(%s, ''x'', to_jsonb(repeat(''x'', 1048575)))', :other), '54000', 'payload takes 1048577 bytes as text, more than 1048576', 'and a payload of at most 1 MiB');
SELECT token FROM pgq_claim() \gset
SELECT throws_ok(format('SELECT pgq_wait_signal(%s, %s, ''x'')', :other, :token + 1), 'PGQ02', NULL, 'a job waits under its token only');
SELECT throws_ok(format('SELECT pgq_wait_signal(%s, %s, ''x'', ''-1 s'')', :other, :token), '22023', 'timeout -00:00:01 is out of range', 'a timeout is not negative');
SELECT throws_ok(format('SELECT pgq_wait_signal(%s, %s, NULL)', :other, :token), '22004', 'name is null', 'a job waits for a name');

-- A request to cancel comes first.
SELECT pgq_cancel(:other);
SELECT is(outcome, 'cancelled', 'a job whose cancellation is requested does not wait') FROM pgq_wait_signal(:other, :token, 'x');

-- A job that is completed without having waited leaves its signals to maintenance.
SELECT id AS done FROM pgq_enqueue('done') \gset
SELECT token FROM pgq_claim() \gset
SELECT pgq_signal(:done, 'unread');
SELECT pgq_complete(:done, :token);
SELECT is(count(*), 1::bigint, 'a signal that no attempt has waited for outlives its job') FROM pgq_job_signal WHERE id = :done;
SELECT _pgq_settle_signals(), _pgq_delete_lost_signals();
SELECT is_empty('SELECT FROM pgq_job_signal', 'maintenance deletes it');

-- By key.
SELECT id AS first FROM pgq_enqueue('k', dedup_key => 'x') \gset
SELECT is(pgq_signal_key('default', 'k', 'x', 'a', '1'), :first::bigint, 'a job gets a signal by its dedup_key while it waits');
SELECT token FROM pgq_claim() \gset
SELECT is(pgq_signal_key('default', 'k', 'x', 'b', '2'), :first::bigint, 'and while it runs');
SELECT id AS second FROM pgq_enqueue('k', dedup_key => 'x') \gset
SELECT is(pgq_signal_key('default', 'k', 'x', 'c', '3'), :second::bigint, 'if a twin waits, that gets it');
SELECT throws_ok('SELECT pgq_signal_key(''default'', ''k'', ''y'', ''c'')', 'PGQ01', 'there is no job of kind "k" with this dedup_key in queue "default"', 'without a job it is refused');
SELECT throws_ok('SELECT pgq_signal_key(''default'', ''k'', NULL, ''c'')', '22004', 'queue, kind or dedup_key is null', 'NULL is not a key');

-- A merge hands over.
SELECT is(outcome, 'merged', 'a job that waits while a twin waits merges with it') FROM pgq_wait_signal(:first, :token, 'c', '1 day');
SELECT results_eq('SELECT id, name COLLATE "default", payload FROM pgq_job_signal ORDER BY name', format('VALUES (%1$s::bigint, ''a'', ''1''::jsonb), (%1$s, ''b'', ''2''), (%1$s, ''c'', ''3'')', :second), 'which takes over its signals');
SELECT token, id AS claimed FROM pgq_claim() \gset
SELECT is(:claimed::bigint, :second::bigint, 'and is ripe, because it has the signal already');
SELECT is(outcome || payload::text, 'received3', 'and receives it') FROM pgq_wait_signal(:second, :token, 'c', '1 day');
SELECT is(pgq_signal(:first, 'late'), true, 'a signal for the job that has merged');
SELECT is(id, :second::bigint, 'reaches the twin') FROM pgq_job_signal WHERE name = 'late';
SELECT id AS third FROM pgq_enqueue('k', dedup_key => 'x') \gset
SELECT is(outcome, 'merged', 'a merge hands over what the job waits for') FROM pgq_wait_signal(:second, :token, 'z', '1 day');
SELECT is(waits_for_signal, 'z', 'so the twin waits for it') FROM pgq_jobs WHERE id = :third;
SELECT pgq_signal(:first, 'z');
SELECT is(id, :third::bigint, 'and is woken by it, also through two merges') FROM pgq_claim();
-- A signal that was not committed when the job merged.
INSERT INTO pgq_job_signal (id, name, sent_at, unseen) VALUES (:second, 'slow', pgq_now(), true);
SELECT _pgq_settle_signals();
SELECT is(id, :third::bigint, 'maintenance hands it over') FROM pgq_job_signal WHERE name = 'slow';
SELECT is_empty('SELECT FROM pgq_job_signal WHERE unseen AND id <> ' || :third, 'no signal is left unseen elsewhere');

SELECT * FROM finish();
ROLLBACK;
