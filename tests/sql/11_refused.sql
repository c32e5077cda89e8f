-- Bad arguments raise an error with SQLSTATE and message, and change nothing.
BEGIN;
SELECT plan(145);
SET LOCAL pgq.now = '2030-01-01 12:00Z';

SELECT pgq_enqueue('held');
SELECT id AS id, token AS token FROM pgq_claim() \gset
SELECT pgq_enqueue('there');

-- An interval can be infinite from PostgreSQL 17 on.
SELECT CASE WHEN current_setting('server_version_num')::integer >= 170000 THEN '22023' ELSE '22007' END AS no_interval \gset

CREATE TEMP TABLE before AS SELECT * FROM pgq_jobs;

SELECT throws_ok(call, state, message, format('%s is refused', call))
FROM (VALUES
    ('SELECT pgq_enqueue(NULL)', '22004', 'kind is null'),
    ('SELECT pgq_enqueue('''')', '22023', 'kind "" is not a name'),
    ('SELECT pgq_enqueue(repeat(''k'', 201))', '22023', format('kind "%s" is not a name', repeat('k', 200))),
    ('SELECT pgq_enqueue(E''a\x1fb'')', '22023', format('kind "%s" is not a name', E'a\x1fb')),
    ('SELECT pgq_enqueue(''k'', queue => NULL)', '22004', 'queue is null'),
    ('SELECT pgq_enqueue(''k'', queue => '''')', '22023', 'queue "" is not a name'),
    ('SELECT pgq_enqueue(repeat(''ü'', 200 / octet_length(''ü'') + 1))', '22023',
     format('kind "%s" is not a name', left(repeat('ü', 200 / octet_length('ü') + 1), 200))),
    ('SELECT pgq_enqueue(''k'', queue => repeat(''q'', 201))', '22023', format('queue "%s" is not a name', repeat('q', 200))),
    ('SELECT pgq_enqueue(''k'', queue => E''a\x1fb'')', '22023', format('queue "%s" is not a name', E'a\x1fb')),
    ('SELECT pgq_enqueue(''k'', NULL)', '22004', 'args is null'),
    ('SELECT pgq_enqueue(''k'', to_jsonb(repeat(''x'', 1048575)))', '54000', 'args take 1048577 bytes as text, more than 1048576'),
    ('SELECT pgq_enqueue(''k'', ripe_at => now(), delay => ''0'')', '22023', 'both ripe_at and delay are given'),
    ('SELECT pgq_enqueue(''k'', ripe_at => ''infinity'')', '22008', 'ripe_at infinity is out of range'),
    ('SELECT pgq_enqueue(''k'', ripe_at => ''-infinity'')', '22008', 'ripe_at -infinity is out of range'),
    ('SELECT pgq_enqueue(''k'', ripe_at => ''2130-01-02 12:00Z'')', '22008', NULL),
    ('SELECT pgq_enqueue(''k'', ripe_at => ''1929-12-31 12:00Z'')', '22008', NULL),
    ('SELECT pgq_enqueue(''k'', delay => ''-1 us'')', '22023', 'delay -00:00:00.000001 is out of range'),
    ('SELECT pgq_enqueue(''k'', delay => ''-120 months 3601 days'')', '22023', 'delay -10 years +3601 days is out of range'),
    ('SELECT pgq_enqueue(''k'', delay => ''120000 months -3599999 days'')', '22023', 'delay 10000 years -3599999 days is out of range'),
    ('SELECT pgq_enqueue(''k'', delay => ''101 years'')', '22023', 'delay 101 years is out of range'),
    ('SELECT pgq_enqueue(''k'', delay => ''170000000 years'')', '22023', NULL),
    ('SELECT pgq_enqueue(''k'', priority => -1)', '22023', 'priority -1 is out of range'),
    ('SELECT pgq_enqueue(''k'', priority => 10)', '22023', 'priority 10 is out of range'),
    ('SELECT pgq_enqueue(''k'', priority => 2147483647)', '22023', 'priority 2147483647 is out of range'),
    ('SELECT pgq_enqueue(''k'', max_retries => -1)', '22023', 'max_retries -1 is out of range'),
    ('SELECT pgq_enqueue(''k'', max_retries => 2147483648)', '22023', 'max_retries 2147483648 is out of range'),
    ('SELECT pgq_enqueue(''k'', priority => 4294967299)', '22023', 'priority 4294967299 is out of range'),
    ('SELECT pgq_enqueue(''k'', backoff => ''-1 s'')', '22023', 'backoff -00:00:01 is out of range'),
    ('SELECT pgq_enqueue(''k'', backoff => ''101 years'')', '22023', 'backoff 101 years is out of range'),
    ('SELECT pgq_enqueue(''k'', backoff_cap => ''-1 s'')', '22023', 'backoff_cap -00:00:01 is out of range'),
    ('SELECT pgq_enqueue(''k'', backoff_cap => ''101 years'')', '22023', 'backoff_cap 101 years is out of range'),
    ('SELECT pgq_enqueue(''k'', dedup_key => repeat(''x'', 1001))', '22023', 'dedup_key takes 1001 bytes, more than 1000'),
    ('SELECT pgq_enqueue(''k'', on_duplicate => ''explode'')', '22023', 'on_duplicate "explode" is unknown'),
    ('SELECT pgq_enqueue(''there'', on_duplicate => ''error'')', 'PGQ04', NULL),
    ('SELECT pgq_enqueue(''k'', context => ''[]'')', '22023', 'context is not an object of at most 8192 bytes'),
    ('SELECT pgq_enqueue(''k'', context => ''null'')', '22023', NULL),
    ('SELECT pgq_enqueue(''k'', context => jsonb_build_object(''a'', repeat(''x'', 8184)))', '22023', NULL),
    ('SELECT pgq_enqueue(''k'', after => ARRAY[NULL]::bigint[])', '22004', 'one of the ids in after is null'),
    ('SELECT pgq_enqueue(''k'', after => ARRAY[0])', 'PGQ01', 'there has been no job 0'),
    ('SELECT pgq_enqueue(''k'', after => ARRAY[9223372036854775807])', 'PGQ01', 'there has been no job 9223372036854775807'),
    ('SELECT pgq_enqueue(''k'', after_failed => ''ignore'')', '22023', 'after_failed "ignore" is unknown'),
    ('SELECT pgq_enqueue_many(''[{"kind": "k", "after": 1}]'')', '22023', 'job 1 of the array: after is not of JSON type array'),
    ('SELECT pgq_enqueue_many(''[{"kind": "k"}, {"kind": "k", "after": ["#2"]}]'')', '22023',
     'job 2 of the array: after has "#2", which is neither an id nor the position of an earlier job'),
    ('SELECT pgq_enqueue_many(''[{"kind": "k"}, {"kind": "k", "after": ["#0"]}]'')', '22023', NULL),
    ('SELECT pgq_enqueue_many(''[{"kind": "k", "after": ["#2"]}, {"kind": "k"}]'')', '22023', NULL),
    ('SELECT pgq_enqueue_many(''[{"kind": "k"}, {"kind": "k", "after": ["1"]}]'')', '22023', NULL),
    ('SELECT pgq_enqueue_many(''[{"kind": "k"}, {"kind": "k", "after": [1.5]}]'')', '22023', NULL),
    ('SELECT pgq_enqueue_many(''[{"kind": "k"}, {"kind": "k", "after": [null]}]'')', '22023', NULL),
    ('SELECT pgq_enqueue_many(''[{"kind": "k"}, {"kind": "", "after": ["#1"]}]'')', '22023', 'job 2 of the array: kind "" is not a name'),
    ('SELECT pgq_enqueue_many(''[{"kind": "k"}, {"kind": "l", "after_failed": "ignore"}]'')', '22023', 'after_failed "ignore" is unknown'),
    ('SELECT pgq_enqueue_many(''[{"kind": "k"}, {"kind": "there", "on_duplicate": "error"}, {"kind": "l", "after": ["#1"]}]'')', 'PGQ04', NULL),
    ('SELECT pgq_enqueue_many(''[{"kind": "k"}, {"kind": "l", "after": ["#1"]}, {"kind": "l", "after": ["#1"], "on_duplicate": "error"}]'')', 'PGQ04', NULL),
    ('SELECT pgq_enqueue(''k'', group_key => '''')', '22023', 'group_key "" is not a name'),
    ('SELECT pgq_enqueue(''k'', group_key => E''a\x1fb'')', '22023', format('group_key "%s" is not a name', E'a\x1fb')),
    ('SELECT pgq_enqueue(''k'', group_key => repeat(''g'', 201))', '22023', format('group_key "%s" is not a name', repeat('g', 200))),
    ('SELECT pgq_claim(NULL)', '22004', 'queues, or one of them, is null'),
    ('SELECT pgq_claim(ARRAY[''default'', NULL])', '22004', 'queues, or one of them, is null'),
    ('SELECT pgq_claim(''{{default,a},{b,c}}'', NULL)', '22004', 'max_jobs is null'),
    ('SELECT pgq_claim(''{}'')', '22023', 'queues is empty'),
    ('SELECT pgq_claim(max_jobs => -1)', '22023', 'max_jobs -1 is out of range'),
    ('SELECT pgq_claim(max_jobs => 10001)', '22023', 'max_jobs 10001 is out of range'),
    ('SELECT pgq_register(''w'', pid => -1)', '22023', 'pid -1 is out of range'),
    ('SELECT pgq_register(''w'', pid => 2147483648)', '22023', 'pid 2147483648 is out of range'),
    ('SELECT pgq_register(''w'', kinds => ''{k,NULL}'')', '22004', 'one of the kinds is null'),
    ('SELECT pgq_claim(max_bytes => NULL)', '22004', 'max_bytes is null'),
    ('SELECT pgq_claim(max_bytes => 0)', '22023', 'max_bytes 0 is out of range'),
    ('SELECT pgq_claim(max_bytes => -1)', '22023', 'max_bytes -1 is out of range'),
    ('SELECT pgq_claim(lease => ''0'')', '22023', 'lease 00:00:00 is out of range'),
    ('SELECT pgq_claim(lease => ''-1 s'')', '22023', 'lease -00:00:01 is out of range'),
    ('SELECT pgq_claim(lease => ''2 years'')', '22023', 'lease 2 years is out of range'),
    ('SELECT pgq_claim(worker => repeat(''w'', 201))', '22023', 'worker takes 201 bytes, more than 200'),
    (format('SELECT pgq_extend(%s, %s, NULL)', :id, :token), '22004', 'lease is null'),
    ('SELECT pgq_claim(lease => ''24000 months -719999 days'')', '22023', NULL),
    (format('SELECT pgq_fail(%s, %s, NULL, ''-120 months 3601 days'')', :id, :token), '22023', NULL),
    (format('SELECT pgq_fail(%s, %s, NULL, ''120000 months -3599999 days'')', :id, :token), '22023', NULL),
    ('SELECT pgq_claim(lease => ''-12 months 361 days'')', '22023', 'lease -1 years +361 days is out of range'),
    ('SELECT pgq_claim(lease => ''170000000 years'')', '22023', NULL),
    (format('SELECT pgq_extend(%s, %s, ''170000000 years'')', :id, :token), '22023', NULL),
    (format('SELECT pgq_extend(%s, %s, ''0'')', :id, :token), '22023', 'lease 00:00:00 is out of range'),
    (format('SELECT pgq_fail(%s, %s, NULL, ''-1 s'')', :id, :token), '22023', 'retry_in -00:00:01 is out of range'),
    (format('SELECT pgq_fail(%s, %s, NULL, ''101 years'')', :id, :token), '22023', 'retry_in 101 years is out of range'),
    (format('SELECT pgq_snooze(%s, %s)', :id, :token), '22004', 'neither until nor delay is given'),
    (format('SELECT pgq_snooze(%s, %s, now(), ''1 s'')', :id, :token), '22023', 'both until and delay are given'),
    (format('SELECT pgq_snooze(%s, %s, delay => ''-1 s'')', :id, :token), '22023', 'delay -00:00:01 is out of range'),
    (format('SELECT pgq_snooze(%s, %s, delay => ''101 years'')', :id, :token), '22023', 'delay 101 years is out of range'),
    (format('SELECT pgq_snooze(%s, %s, delay => ''-120 months 3601 days'')', :id, :token), '22023', NULL),
    (format('SELECT pgq_snooze(%s, %s, delay => ''120000 months -3599999 days'')', :id, :token), '22023', NULL),
    (format('SELECT pgq_snooze(%s, %s, ''infinity'')', :id, :token), '22008', 'until infinity is out of range'),
    (format('SELECT pgq_snooze(%s, %s, ''-infinity'')', :id, :token), '22008', 'until -infinity is out of range'),
    (format('SELECT pgq_snooze(%s, %s, ''2130-01-02 12:00Z'')', :id, :token), '22008', NULL),
    (format('SELECT pgq_snooze(%s, %s, ''1929-12-31 12:00Z'')', :id, :token), '22008', NULL),
    (format('SELECT pgq_complete(%s, %s, to_jsonb(repeat(''x'', 1048575)))', :id, :token), '54000', NULL),
    (format('SELECT pgq_complete(%s, %s, transaction => ''1'')', :id, :token), '25000', 'transaction 1 has ended'),
    (format('SELECT pgq_hold_many(ARRAY[%s], NULL)', :id), '22004', 'ids or tokens is null'),
    (format('SELECT pgq_hold_many(NULL, ARRAY[%s])', :token), '22004', 'ids or tokens is null'),
    (format('SELECT pgq_hold_many(ARRAY[%s, 1], ARRAY[%s])', :id, :token), '2202E', 'there are 2 ids but 1 tokens'),
    (format('SELECT pgq_complete_many(ARRAY[%s], NULL)', :id), '22004', 'ids or tokens is null'),
    (format('SELECT pgq_complete_many(NULL, ARRAY[%s])', :token), '22004', 'ids or tokens is null'),
    (format('SELECT pgq_complete_many(ARRAY[%s, 1], ARRAY[%s])', :id, :token), '2202E', 'there are 2 ids but 1 tokens'),
    (format('SELECT pgq_complete_many(ARRAY[%s], ARRAY[%s, 1])', :id, :token), '2202E', 'there are 1 ids but 2 tokens'),
    ('SELECT pgq_claim_batch(packed => NULL)', '22004', 'packed is null'),
    ('SELECT pgq_claim_batch(max_jobs => NULL)', '22004', 'max_jobs is null'),
    ('SELECT pgq_claim_batch(lease => ''0'')', '22023', 'lease 00:00:00 is out of range'),
    ('SELECT pgq_claim_batch(done_ids => NULL)', '22004', 'ids or tokens is null'),
    ('SELECT pgq_claim_batch(done_tokens => NULL)', '22004', 'ids or tokens is null'),
    (format('SELECT pgq_claim_batch(done_ids => ARRAY[%s])', :id), '2202E', 'there are 1 ids but 0 tokens'),
    (format('SELECT pgq_claim_batch(done_tokens => ARRAY[%s])', :token), '2202E', 'there are 0 ids but 1 tokens'),
    ('SELECT pgq_enqueue(''k'', delay => ''infinity'')', :'no_interval', NULL),
    ('SELECT pgq_enqueue(''k'', backoff => ''infinity'')', :'no_interval', NULL),
    ('SELECT pgq_enqueue(''k'', backoff_cap => ''infinity'')', :'no_interval', NULL),
    ('SELECT pgq_claim(lease => ''infinity'')', :'no_interval', NULL),
    (format('SELECT pgq_extend(%s, %s, ''infinity'')', :id, :token), :'no_interval', NULL),
    (format('SELECT pgq_fail(%s, %s, NULL, ''infinity'')', :id, :token), :'no_interval', NULL),
    (format('SELECT pgq_snooze(%s, %s, delay => ''infinity'')', :id, :token), :'no_interval', NULL),
    ('SELECT pgq_purge(NULL)', '22004', 'older_than or max_jobs is null'),
    ('SELECT pgq_purge(max_jobs => NULL)', '22004', 'older_than or max_jobs is null'),
    ('SELECT pgq_idle(pass_on => NULL)', '22004', 'pass_on is null'),
    ('SELECT pgq_idle(idle => NULL)', '22004', 'idle is null'),
    ('SELECT pgq_purge(''101 years'')', '22023', 'cannot purge 10000 jobs older than 101 years with outcome "<NULL>"'),
    ('SELECT pgq_purge(''170000000 years'')', '22023', NULL),
    ('SELECT pgq_purge(''-1 s'')', '22023', NULL),
    ('SELECT pgq_purge(outcome => ''alive'')', '22023', NULL),
    ('SELECT pgq_purge(max_jobs => -1)', '22023', NULL)
) AS bad (call, state, message);

SELECT set_eq('SELECT * FROM pgq_jobs', 'SELECT * FROM before', 'the refused calls have changed no job');

-- A day within the limit or beyond it, because a hundred years are counted in the time zone of the session.
SELECT lives_ok(call, format('%s is within the limits', call))
FROM (VALUES
    ('SELECT pgq_enqueue(repeat(''ü'', 200 / octet_length(''ü'')))'), ('SELECT pgq_enqueue(''k'', queue => repeat(''q'', 200))'),
    ('SELECT pgq_enqueue(''k'', to_jsonb(repeat(''x'', 1048574)))'), ('SELECT pgq_enqueue(''a'', ripe_at => ''2129-12-31 12:00Z'')'),
    ('SELECT pgq_enqueue(''b'', ripe_at => ''1930-01-02 12:00Z'')'), ('SELECT pgq_enqueue(''c'', delay => ''100 years'')'),
    ('SELECT pgq_enqueue(''d'', priority => 9, max_retries => 2147483647, backoff => ''100 years'', backoff_cap => ''100 years'')'),
    ('SELECT pgq_enqueue(''e'', priority => 0, max_retries => 0, delay => ''0'', backoff => ''0'', backoff_cap => ''0'')'),
    ('SELECT pgq_enqueue(''f'', dedup_key => repeat(''x'', 1000))'), ('SELECT pgq_enqueue(''g'', group_key => repeat(''g'', 200))'),
    ('SELECT pgq_claim(''{none}'', 10000, ''1 year'', repeat(''w'', 200), 2147483647)'), ('SELECT pgq_claim(''{{none,x},{y,z}}'')'), ('SELECT pgq_purge(''100 years'', max_jobs => 0)'),
    (format('SELECT pgq_extend(%s, %s, ''1 year'')', :id, :token)),
    (format('SELECT pgq_complete(%s, %s, to_jsonb(repeat(''x'', 1048574)))', :id, :token))
) AS good (call);

-- The two tests of pgq_enqueue agree with the function that says what is wrong. Each argument has good and bad values;
-- jobs with one strange argument, and jobs with arbitrary ones, made from seeds so that every run has the same.
CREATE FUNCTION pg_temp.some(at integer[]) RETURNS TABLE (common boolean, dedup boolean, valid boolean, problem text[]) LANGUAGE sql AS $$
    SELECT _pgq_is_common(v.kind, v.args::text, v.queue, v.ripe_at, v.delay, v.priority, v.max_retries, v.backoff, v.backoff_cap, v.dedup,
                          v.dedup_key, v.on_duplicate, v.context, v.group_key, v.dedup_for, NULL, NULL),
           v.dedup,
           _pgq_is_valid(v.kind, v.args::text, v.queue, v.ripe_at, v.delay, v.priority, v.max_retries, v.backoff, v.backoff_cap,
                         v.dedup, v.dedup_key, v.on_duplicate, v.context, v.group_key, v.dedup_for, pgq_now()),
           _pgq_validate(v.kind, v.args, v.queue, v.ripe_at, v.delay, v.priority, v.max_retries, v.backoff, v.backoff_cap, v.dedup, v.dedup_key,
                         v.on_duplicate, v.context, v.group_key, v.dedup_for, pgq_now())
    FROM (SELECT
        (ARRAY['k', '', repeat('k', 200), repeat('k', 201), E'a\x1fb', NULL])[at[1] % 6 + 1] AS kind,
        (ARRAY['{}', '1e1000', to_jsonb(repeat('x', 1048574)), to_jsonb(repeat('x', 1048575)), 'null', NULL])[at[2] % 6 + 1] AS args,
        (ARRAY['q', '', repeat('q', 200), repeat('q', 201), E'a\x1fb', NULL])[at[3] % 6 + 1] AS queue,
        (ARRAY[NULL, pgq_now(), 'infinity', '-infinity', '4000-01-01', pgq_now()])[at[4] % 6 + 1] AS ripe_at,
        (ARRAY[NULL, '1 s', '-1 s', '101 years', '-120 months 3601 days', NULL]::interval[])[at[5] % 6 + 1] AS delay,
        (ARRAY[5, 0, 9, -1, 10, NULL])[at[6] % 6 + 1]::bigint AS priority,
        (ARRAY[10, 0, 2147483647, -1, 2147483648, NULL])[at[7] % 6 + 1]::bigint AS max_retries,
        (ARRAY[NULL, '0', '100 years', '-1 s', '101 years', '1 min']::interval[])[at[8] % 6 + 1] AS backoff,
        (ARRAY[NULL, '0', '100 years', '-1 s', '101 years', '1 min']::interval[])[at[9] % 6 + 1] AS backoff_cap,
        (ARRAY[true, false, NULL, true, false, NULL])[at[10] % 6 + 1] AS dedup,
        (ARRAY[NULL, '', repeat('x', 1000), repeat('x', 1001), 'd', NULL])[at[11] % 6 + 1] AS dedup_key,
        (ARRAY['keep', 'replace', 'soonest', 'error', 'explode', NULL])[at[12] % 6 + 1] AS on_duplicate,
        (ARRAY[NULL, '{}', '[]', 'null', jsonb_build_object('a', repeat('x', 8184)), NULL])[at[13] % 6 + 1] AS context,
        (ARRAY[NULL, 'g', '', repeat('g', 200), repeat('g', 201), E'a\x1fb'])[at[14] % 6 + 1] AS group_key,
        (ARRAY[NULL, '1 s', '0', '100 years', '101 years', '-120 months 3601 days']::interval[])[at[15] % 6 + 1] AS dedup_for) AS v
$$;
CREATE TEMP TABLE checked AS
SELECT c.*
FROM (SELECT ARRAY(SELECT CASE WHEN n = argument THEN value ELSE 0 END FROM generate_series(1, 15) AS n) AS at
      FROM generate_series(1, 15) AS argument, generate_series(0, 5) AS value
      UNION ALL
      SELECT ARRAY(SELECT CASE WHEN get_byte(d.digest, n) % 4 = 0 THEN get_byte(d.digest, n) / 4 ELSE 0 END FROM generate_series(0, 14) AS n)
      FROM generate_series(1, 500) AS seed, LATERAL (SELECT decode(md5(seed::text), 'hex') AS digest) AS d) AS drawn,
     LATERAL pg_temp.some(drawn.at) AS c;
SELECT is(count(*), 0::bigint, 'a job that the short test of pgq_enqueue takes is valid') FROM checked WHERE common AND (problem IS NOT NULL OR dedup IS NULL);
SELECT is(count(*), 0::bigint, 'the full test takes a job if nothing is wrong with it') FROM checked WHERE valid IS TRUE <> (problem IS NULL);
SELECT cmp_ok(count(*) FILTER (WHERE common), '>', 40::bigint, 'the short test takes many of these jobs') FROM checked;
SELECT cmp_ok(count(*) FILTER (WHERE valid), '>', 60::bigint, 'the full one takes more') FROM checked;

-- The table refuses a row that no view could show, even from the owner.
SELECT throws_ok(format('UPDATE pgq_ended SET %s', change), '23514', NULL, format('the table pgq_ended refuses %s', change))
FROM (VALUES ('outcome = ''lost'''), ('result = to_jsonb(repeat(''x'', 1048576))')) AS bad (change);

SELECT * FROM finish();
ROLLBACK;
