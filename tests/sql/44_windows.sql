-- Windows: with dedup_for a job is enqueued once, also when the first one has ended.
BEGIN;
SELECT plan(57);
SET LOCAL pgq.now = '2030-01-01 12:00Z';
SET LOCAL pgq.jitter = '0';

CREATE FUNCTION pg_temp.run() RETURNS void LANGUAGE sql AS $$ SELECT pgq_complete(id, token) FROM pgq_claim('{default,q}', 100) $$;

-- In each state of the first job.
SELECT id AS first, created FROM pgq_enqueue('k', dedup_key => 'x', dedup_for => '1 hour') \gset
SELECT ok(:'created', 'the first enqueue creates a job');
SELECT results_eq($$ SELECT id, created FROM pgq_enqueue('k', dedup_key => 'x', dedup_for => '1 hour') $$, format('VALUES (%s::bigint, false)', :first), 'a duplicate of a waiting job has its id');
SELECT token FROM pgq_claim() \gset
SELECT results_eq($$ SELECT id, created FROM pgq_enqueue('k', dedup_key => 'x', dedup_for => '1 hour') $$, format('VALUES (%s::bigint, false)', :first), 'and so has one of a running job');
SELECT pgq_complete(:first, :token);
SELECT results_eq($$ SELECT id, created FROM pgq_enqueue('k', dedup_key => 'x', dedup_for => '1 hour') $$, format('VALUES (%s::bigint, false)', :first), 'and of a job that is done');
SELECT is_empty('SELECT FROM pgq_waiting', 'and no job waits');
SET LOCAL pgq.now = '2030-01-01 12:59:59.999999Z';
SELECT is(created, false, 'up to the end of the window') FROM pgq_enqueue('k', dedup_key => 'x', dedup_for => '1 hour');
SET LOCAL pgq.now = '2030-01-01 13:00Z';
SELECT id AS second, created FROM pgq_enqueue('k', dedup_key => 'x', dedup_for => '1 hour') \gset
SELECT ok(:'created', 'when the window is over a job is created');
SELECT pg_temp.run();
SET LOCAL pgq.now = '2030-01-01 13:30Z';
SELECT results_eq($$ SELECT id, created FROM pgq_enqueue('k', dedup_key => 'x', dedup_for => '1 day') $$, format('VALUES (%s::bigint, false)', :second), 'which opens the next window');
SET LOCAL pgq.now = '2030-01-01 14:00Z';
SELECT ok(created, 'whose length the first enqueue has chosen') FROM pgq_enqueue('k', dedup_key => 'x', dedup_for => '1 day');
SELECT pg_temp.run();

-- Without the argument, and for other jobs.
SELECT ok(created, 'an enqueue without a window does not look at windows') FROM pgq_enqueue('k', dedup_key => 'x');
SELECT pg_temp.run();
SELECT ok(created, 'another key is another window') FROM pgq_enqueue('k', dedup_key => 'y', dedup_for => '1 hour');
SELECT ok(created, 'and so is another kind') FROM pgq_enqueue('l', dedup_key => 'x', dedup_for => '1 hour');
SELECT ok(created, 'and another queue') FROM pgq_enqueue('k', queue => 'q', dedup_key => 'x', dedup_for => '1 hour');
SELECT ok(created, 'without a key the args decide') FROM pgq_enqueue('k', '1', dedup_for => '1 hour');
SELECT ok(NOT created, 'in the same way') FROM pgq_enqueue('k', '1', dedup_for => '1 hour');
SELECT is(count(*), 5::bigint, 'each of these has a window') FROM pgq_seen;
SELECT pg_temp.run();

-- A job that waits without a window is the first one.
SELECT id AS plain FROM pgq_enqueue('w') \gset
SELECT results_eq($$ SELECT id, created FROM pgq_enqueue('w', dedup_for => '1 hour') $$, format('VALUES (%s::bigint, false)', :plain), 'a twin that waits without a window is a duplicate');
SELECT pg_temp.run();
SELECT results_eq($$ SELECT id, created FROM pgq_enqueue('w', dedup_for => '1 hour') $$, format('VALUES (%s::bigint, false)', :plain), 'and then the first job of the window');
SELECT id AS other FROM pgq_enqueue('w') \gset
SELECT results_eq($$ SELECT id, created FROM pgq_enqueue('w', dedup_for => '1 hour') $$, format('VALUES (%s::bigint, false)', :other), 'a job that waits comes before the first one');
SELECT pg_temp.run();

-- Every on_duplicate, of a job that waits, and of one that does not.
SELECT id AS job FROM pgq_enqueue('d', '1', dedup_key => 'd', dedup_for => '1 hour', delay => '1 hour') \gset
SELECT results_eq($$ SELECT created FROM pgq_enqueue('d', '2', dedup_key => 'd', dedup_for => '1 hour') $$, 'VALUES (false)', 'keep');
SELECT results_eq('SELECT args, ripe_at FROM pgq_waiting', $$ VALUES ('1'::jsonb, timestamptz '2030-01-01 15:00Z') $$, 'changes nothing');
SELECT results_eq($$ SELECT created FROM pgq_enqueue('d', '2', dedup_key => 'd', dedup_for => '1 hour', on_duplicate => 'soonest', delay => '10 minutes') $$, 'VALUES (false)', 'soonest');
SELECT results_eq('SELECT args, ripe_at FROM pgq_waiting', $$ VALUES ('1'::jsonb, timestamptz '2030-01-01 14:10Z') $$, 'moves it forward');
SELECT results_eq($$ SELECT created FROM pgq_enqueue('d', '3', dedup_key => 'd', dedup_for => '1 hour', on_duplicate => 'replace', priority => 1) $$, 'VALUES (false)', 'replace');
SELECT results_eq('SELECT args, ripe_at, priority::integer FROM pgq_waiting', $$ VALUES ('3'::jsonb, timestamptz '2030-01-01 14:00Z', 1) $$, 'replaces it');
SELECT throws_ok($$ SELECT pgq_enqueue('d', dedup_key => 'd', dedup_for => '1 hour', on_duplicate => 'error') $$, 'PGQ04', format('job %s has been enqueued with this signature, in a window until %s', :job, timestamptz '2030-01-01 15:00Z'), 'error raises PGQ04');
SELECT pg_temp.run();
SELECT throws_ok($$ SELECT pgq_enqueue('d', dedup_key => 'd', dedup_for => '1 hour', on_duplicate => 'error') $$, 'PGQ04', NULL, 'also when the job is done');
SELECT is(id, :job::bigint, format('%s returns the job that is done', policy)) FROM unnest('{keep,replace,soonest,NULL}'::text[]) AS policy CROSS JOIN LATERAL pgq_enqueue('d', '4', dedup_key => 'd', dedup_for => '1 hour', on_duplicate => policy);
SELECT is_empty('SELECT FROM pgq_waiting', 'and enqueues none');
SELECT throws_ok($$ SELECT pgq_enqueue('e'), pgq_enqueue('e', dedup_for => '1 hour', on_duplicate => 'error') $$, 'PGQ04', NULL, 'a twin that waits without a window is an error, too');
SELECT is_empty($$ SELECT FROM pgq_seen AS s WHERE s.signature = _pgq_signature('default', 'e', '{}', NULL) $$, 'which leaves no window');

-- What makes no sense.
SELECT throws_ok(format('SELECT pgq_enqueue(''k'', %s)', arguments), '22023', message, arguments)
FROM (VALUES ('dedup_for => ''0''', 'dedup_for 00:00:00 is out of range'), ('dedup_for => ''-1 s''', 'dedup_for -00:00:01 is out of range'),
             ('dedup_for => ''101 years''', 'dedup_for 101 years is out of range'), ('dedup_for => ''1 s'', dedup => false', 'dedup_for is given, but dedup is false')) AS t (arguments, message);
SELECT throws_ok($$ SELECT pgq_enqueue_many('[{"kind": "k"}, {"kind": "k", "dedup_for": "-1 s"}]') $$, '22023', 'job 2 of the array: dedup_for -00:00:01 is out of range', 'an array is refused as a whole');
SELECT throws_ok($$ SELECT pgq_enqueue_many('[{"kind": "k", "dedup_for": 7}]') $$, '22023', 'job 1 of the array: dedup_for is not of JSON type string', 'a window is a string');
SELECT is_empty('SELECT FROM pgq_waiting', 'what is refused enqueues nothing');
CREATE ROLE tap_producer;
SELECT pgq_grant('tap_producer', 'producer', '{q}');
\ir result.sql
SELECT is(pg_temp.result('tap_producer', format('SELECT pgq_enqueue(%L, dedup_key => ''d'', dedup_for => ''1 s'')', kind)), '42501', what)
FROM (VALUES ('new', 'a queue that the role may not use is refused'), ('d', 'also a duplicate there')) AS t (kind, what);
SELECT is(pg_temp.result('tap_producer', 'SELECT created FROM pgq_enqueue(''q'', queue => ''q'', dedup_for => ''1 s'')'), 'true', 'one that it may use is not');

-- Many: in their order, mixed with others, and duplicates of each other.
SELECT results_eq(
    $$ SELECT n, created FROM pgq_enqueue_many('[{"kind": "n", "args": 1, "dedup_for": "1 hour"}, {"kind": "n", "args": 2}, {"kind": "n", "args": 1, "dedup_for": "1 hour"},
                                                 {"kind": "n", "args": 2}, {"kind": "n", "args": 2, "dedup": false, "dedup_for": null, "group_key": "g"}]') $$,
    'VALUES (1::bigint, true), (2, true), (3, false), (4, false), (5, true)', 'a call with windows gives what one enqueue after the other gives');
SELECT results_eq('SELECT args, count(*), count(group_id) FROM pgq_waiting GROUP BY args ORDER BY args', $$ VALUES ('1'::jsonb, 1::bigint, 0::bigint), ('2', 2, 1) $$, 'these jobs wait');
SELECT pg_temp.run();
SELECT results_eq($$ SELECT n, created FROM pgq_enqueue_many('[{"kind": "n", "args": 2}, {"kind": "n", "args": 1, "dedup_for": "1 hour"}]') $$, 'VALUES (1::bigint, true), (2, false)', 'a window lasts when the job is done');
SELECT throws_matching($$ SELECT pgq_enqueue_many('[{"kind": "n", "args": 3}, {"kind": "n", "args": 1, "dedup_for": "1 hour", "on_duplicate": "error"}]') $$,
                       '^job 2 of the array: job \d+ has been enqueued with this signature$', 'an error has the number of the job');
SELECT is_empty('SELECT FROM pgq_waiting WHERE args = ''3''', 'and enqueues none of them');

-- In an ordered queue the jobs of an array run in its order, whichever of them have windows.
SELECT pgq_configure('o', '{"ordered": true}');
CREATE TEMP TABLE drawn AS
    SELECT * FROM pgq_enqueue_many((
        SELECT jsonb_agg(jsonb_build_object('kind', 'o', 'queue', 'o', 'group_key', 'g', 'args', n % 20, 'dedup_for', CASE WHEN n % 3 > 0 THEN '1 hour' END) ORDER BY n)
        FROM generate_series(1, 25) AS n));
SELECT results_eq('SELECT w.args::integer FROM pgq_waiting AS w WHERE w.queue = ''o'' ORDER BY w.id', 'SELECT n % 20 FROM generate_series(1, 20) AS n', 'the ids grow in the order of the array');
SELECT results_eq('SELECT args::integer FROM pgq_claim(''{o}'')', 'VALUES (1)', 'the first one is claimed first');
SELECT results_eq('SELECT d.n, f.n FROM drawn AS d JOIN drawn AS f ON f.id = d.id AND f.created WHERE NOT d.created ORDER BY d.n',
                  'SELECT n::bigint, n - 20::bigint FROM generate_series(21, 25) AS n', 'a duplicate has the id of the first');
SELECT is((pgq_enqueue('o', '1', 'o', group_key => 'g', dedup_for => '1 hour')).id, (SELECT id FROM drawn WHERE n = 1), 'and so has one of a window that lasts');

-- Claims delete windows that are over.
CREATE FUNCTION pg_temp.left_at(at timestamptz) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('pgq.now', at::text, true), set_config(_pgq_head_setting(''), '', true), set_config(_pgq_bare_setting(), '', true);
    PERFORM pgq_claim('{nowhere}');
    RETURN (SELECT count(*) FROM pgq_seen);
END
$$;
DELETE FROM pgq_seen;
INSERT INTO pgq_seen SELECT md5(n::text)::uuid, n, timestamptz '2030-01-02Z' + n * interval '1 ms' FROM generate_series(1, 6000) AS n;
SELECT is(pg_temp.left_at('2030-01-02Z'), 6000::bigint, 'a window that lasts stays');
SELECT is(pg_temp.left_at('2030-01-02 00:00:01Z'), 5000::bigint, 'those that are over go');
INSERT INTO pgq_seen SELECT md5('late' || n)::uuid, n, timestamptz '2030-01-02 00:00:10Z' + n * interval '1 ms' FROM generate_series(1, 1000) AS n;
SELECT is(pg_temp.left_at('2030-01-03Z'), 1000::bigint, 'up to 5000 in a step');
SELECT is(pg_temp.left_at('2030-01-03 00:00:01Z'), 0::bigint, 'and the others a second later');

SELECT * FROM finish();
ROLLBACK;
