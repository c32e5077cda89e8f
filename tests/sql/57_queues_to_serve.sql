-- pgq_queues_to_serve: the queues in which jobs wait, for a worker that does not know them beforehand.
BEGIN;
SELECT plan(20);
SET LOCAL pgq.now = '2030-01-01 12:00Z';

SELECT is_empty('SELECT pgq_queues_to_serve()', 'where no job waits, there is no queue to serve');
SELECT count(*) FROM pgq_enqueue_many(
    (SELECT jsonb_agg(jsonb_build_object('kind', 'k', 'args', n, 'queue', queue, 'priority', n % 10))
     FROM unnest('{mail,mail.eu,mail.us,mail_eu,mail%,Mail,é,z}'::text[]) AS queue, generate_series(1, 20) AS n));
SELECT pgq_enqueue('k', queue => 'later', delay => '1 day');
SELECT results_eq(
    'SELECT q COLLATE "C" FROM pgq_queues_to_serve() AS q',
    $$ SELECT q COLLATE "C" FROM unnest('{Mail,later,mail,mail%,mail.eu,mail.us,mail_eu,z,é}'::text[]) AS q $$,
    'each queue is returned once, in the order of bytes, also one whose jobs are not ripe');
SELECT results_eq(format('SELECT q COLLATE "C" FROM pgq_queues_to_serve(%L) AS q', prefixes),
    format('SELECT q COLLATE "C" FROM unnest(%L::text[]) AS q', queues), format('these queues have the prefixes %s', prefixes))
FROM (VALUES
    ('{mail}', '{mail,mail%,mail.eu,mail.us,mail_eu}'),
    ('{mail.}', '{mail.eu,mail.us}'),
    ('{mail_}', '{mail_eu}'),
    ('{mail%}', '{mail%}'),
    ('{mail.us,é,mail.,mail.us}', '{mail.eu,mail.us,é}'),
    ('{z,""}', '{Mail,later,mail,mail%,mail.eu,mail.us,mail_eu,z,é}'),
    ('{mail.eu.x,zz,ê}', '{}')
) AS t (prefixes, queues);

SELECT count(*) FROM pgq_claim('{z}', 20, '1 minute', 'w');
SELECT is_empty($$ SELECT pgq_queues_to_serve('{z}') $$, 'a queue is not returned when none of its jobs waits any more');
SET LOCAL pgq.now = '2030-01-01 12:02Z';
SELECT results_eq($$ SELECT pgq_queues_to_serve('{z}') $$, $$ VALUES ('z') $$, 'jobs whose lease has ended are rescued first');

CREATE ROLE tap_some;
SELECT pgq_grant('tap_some', 'worker', '{mail.us,z,nothing}');
SET LOCAL ROLE tap_some;
SELECT ARRAY(SELECT pgq_queues_to_serve()) AS mine, ARRAY(SELECT pgq_queues_to_serve('{mail}')) AS mail, ARRAY(SELECT pgq_queues_to_serve('{mail.eu}')) AS eu \gset
RESET ROLE;
SELECT is(:'mine'::text, '{mail.us,z}', 'a role sees the queues that it may use');
SELECT is(:'mail'::text, '{mail.us}', 'a role sees the queues that it may use and that have the prefix');
SELECT is(:'eu'::text, '{}', 'a role sees no queue that it may not use');

SELECT throws_ok(call, state, message, message)
FROM (VALUES
    ('SELECT pgq_queues_to_serve(NULL)', '22004', 'prefixes, or one of them, is null'),
    ('SELECT pgq_queues_to_serve(''{a,NULL}'')', '22004', 'prefixes, or one of them, is null'),
    ('SELECT pgq_queues_to_serve(''{}'')', '22023', 'prefixes is empty')
) AS t (call, state, message);

SELECT isnt_empty($$ SELECT FROM pgq_idle('{}') $$, 'a session sleeps for all queues as for many');
SELECT is((SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory' AND classid = 'pgq_waiting'::regclass),
          65::bigint, 'it holds all buckets and one slot');
SELECT is_empty($$ SELECT FROM pgq_idle('{}', false, true) $$, 'awake again it has no channel');

SELECT * FROM finish();
ROLLBACK;
