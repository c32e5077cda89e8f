-- What holds for every object of pgq, read from the catalogue.
BEGIN;
SELECT plan(28);

CREATE TEMP VIEW func AS
SELECT p.oid, p.oid::regprocedure::text AS name, p.proname, p.prosecdef, p.proconfig, p.prosqlbody, p.prorettype,
       coalesce(p.proallargtypes, p.proargtypes::oid[]) AS types, p.proacl, l.lanname
FROM pg_proc AS p
JOIN pg_language AS l ON l.oid = p.prolang
WHERE p.pronamespace = quote_ident(current_schema())::regnamespace AND p.proname ~ '^_?pgq_';

CREATE TEMP VIEW rel AS
SELECT c.oid, c.relname, c.relkind, c.reltype
FROM pg_class AS c
WHERE c.relnamespace = quote_ident(current_schema())::regnamespace AND c.relname ~ '^_?pgq_' AND c.relkind IN ('r', 'v', 'S', 'c');

SELECT is(
    (SELECT array_agg(proname::text ORDER BY proname::text COLLATE "C") FROM func WHERE proname !~ '^_'),
    '{pgq_add_to_batch,pgq_await,pgq_backoff,pgq_batch_progress,pgq_cancel,pgq_cancel_claimed,pgq_cancel_requested,pgq_claim,pgq_claim_batch,pgq_complete,pgq_complete_many,pgq_configure,pgq_cron_next,pgq_decline,pgq_enqueue,pgq_enqueue_batch,
      pgq_enqueue_many,pgq_extend,pgq_fail,pgq_find_jobs,pgq_grant,pgq_hold,pgq_hold_many,pgq_idle,pgq_now,pgq_overview_counters,pgq_overview_deaths,pgq_overview_ids,pgq_overview_kinds,pgq_overview_queues,pgq_overview_waits,pgq_pause,pgq_pause_schedule,pgq_purge,pgq_purge_jobs,pgq_queues_to_serve,pgq_reconcile,pgq_register,pgq_release,
      pgq_remaining,pgq_result,pgq_resume,pgq_resume_schedule,pgq_retry,pgq_revoke,pgq_ripe_in,pgq_run_schedule,pgq_save,pgq_schedule,pgq_signal,pgq_signal_key,pgq_snooze,pgq_unregister,pgq_unschedule,pgq_update,pgq_version,pgq_wait_signal}',
    'these are the public functions, each with one set of arguments');

SELECT is(
    (SELECT array_agg(relname::text ORDER BY relname::text COLLATE "C") FROM rel),
    '{_pgq_counters,_pgq_cron,_pgq_lane_head,_pgq_packed,_pgq_presence,_pgq_running,_pgq_tally,_pgq_visible_queues,pgq_awaited,pgq_batch,pgq_batches,pgq_blocked,pgq_cancel_request,pgq_count,pgq_counters,pgq_ended,pgq_error,pgq_head,pgq_job_id,pgq_job_signal,pgq_jobs,pgq_mark,pgq_merged,pgq_need,pgq_need_ended,pgq_needed,pgq_needs,pgq_paused,pgq_permission,pgq_queue_setting,pgq_queues,pgq_rate,pgq_running,
      pgq_running_batch,pgq_saved,pgq_schedule_entry,pgq_schedules,pgq_seen,pgq_signal_wait,pgq_stats,pgq_token,pgq_turn,pgq_turn_0,pgq_turn_1,pgq_turn_2,pgq_turn_3,pgq_turn_4,pgq_turn_5,pgq_turn_6,pgq_turn_7,pgq_uncounted,pgq_waiting,pgq_worker_session,pgq_worker_session_number,pgq_workers}',
    'these are the tables, views, sequences and types');

-- What names no object, or the schema of each, needs no path.
SELECT is_empty($$
    SELECT name FROM func
    WHERE lanname = 'plpgsql'
      AND proname <> '_pgq_refuse_in_maintenance'
      AND (proconfig IS NULL OR NOT format('search_path=%I, pg_temp', current_schema()) = ANY (proconfig))
$$, 'every PL/pgSQL function pins the schema of pgq and pg_temp as its search path');

SELECT is_empty($$
    SELECT name FROM func WHERE lanname = 'sql' AND prosqlbody IS NULL
$$, 'the body of every SQL function is parsed when the function is created');

SELECT is_empty($$
    SELECT name FROM func WHERE lanname NOT IN ('sql', 'plpgsql')
$$, 'every function is in SQL or PL/pgSQL');

SELECT is_empty($$
    SELECT name FROM func
    WHERE prosecdef <> (proname ~ '^pgq_' AND lanname = 'plpgsql' AND proname NOT IN ('pgq_grant', 'pgq_revoke'))
$$, 'the public functions in PL/pgSQL are SECURITY DEFINER, except pgq_grant and pgq_revoke; no other function is');

SELECT is_empty($$
    SELECT name FROM func
    WHERE array_to_string(proconfig, ' ') ~ 'enable_' AND NOT 'jit=off' = ANY (proconfig)
$$, 'every function that turns planner methods off turns JIT off, too');

SELECT is_empty($$
    SELECT name FROM func WHERE has_function_privilege('public', oid, 'EXECUTE')
$$, 'PUBLIC may execute nothing');

SELECT is_empty($$
    SELECT relname FROM rel
    WHERE CASE relkind
               WHEN 'S' THEN has_sequence_privilege('public', oid, 'USAGE, SELECT, UPDATE')
               WHEN 'c' THEN has_type_privilege('public', reltype, 'USAGE')
               ELSE has_table_privilege('public', oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
          END
$$, 'PUBLIC may use no table, view, sequence or type');

SELECT is_empty($$
    SELECT name FROM func WHERE obj_description(oid, 'pg_proc') IS NULL
    UNION ALL
    SELECT relname FROM rel
    WHERE CASE relkind WHEN 'c' THEN obj_description(reltype, 'pg_type') ELSE obj_description(oid, 'pg_class') END IS NULL
$$, 'every function, table, view, sequence and type has a comment');

SELECT is_empty($$
    SELECT c.oid::regclass, a.attname
    FROM rel AS c
    JOIN pg_attribute AS a ON a.attrelid = c.oid
    WHERE c.relkind IN ('r', 'c') AND a.attnum > 0 AND NOT a.attisdropped AND col_description(c.oid, a.attnum) IS NULL
      -- A column that the three tables of jobs share has its comment in pgq_waiting.
      AND (c.relname = 'pgq_waiting' OR NOT EXISTS (
          SELECT FROM pg_attribute AS w
          WHERE w.attrelid = (SELECT oid FROM rel WHERE relname = 'pgq_waiting') AND w.attname = a.attname))
$$, 'every column has a comment');

SELECT is_empty($$
    SELECT conname FROM pg_constraint
    WHERE conrelid IN (SELECT oid FROM rel) AND contype <> 'n' AND conname NOT LIKE conrelid::regclass || '\_%'
$$, 'the name of every constraint begins with that of its table');

SELECT is_empty($$
    SELECT name FROM func WHERE proname !~ '^_pgq_(grant|revoke)_privileges$' AND pg_get_functiondef(oid) ~ '\mEXECUTE\M'
$$, 'only the functions that grant and revoke run dynamic SQL');

SELECT is_empty($$
    SELECT name FROM func WHERE 'varchar'::regtype = ANY (types || prorettype)
$$, 'no argument or result is of type varchar');

-- A RAISE has a code and a hint, or passes on the three parts that _pgq_validate returns.
SELECT is_empty($$
    SELECT f.name, r.statement[1]
    FROM func AS f
    CROSS JOIN LATERAL regexp_matches(pg_get_functiondef(f.oid), 'RAISE EXCEPTION[^;]*(?:''[^'']*''[^;]*)*;', 'g') AS r (statement)
    WHERE r.statement[1] !~ 'ERRCODE' OR r.statement[1] !~ 'HINT'
$$, 'every error has a SQLSTATE and a hint');

-- 2202E is array_subscript_error, and 54000 is program_limit_exceeded, too. PGQ04 is provoked in 40_dedup.sql and
-- 12_enqueue_many.sql, PGQ01 and PGQ03 in 60_admin.sql. lock_not_available takes two sessions, in test_cancel_requests.py.
SELECT is(
    ARRAY(SELECT DISTINCT coalesce(r.code[1], r.code[2]) COLLATE "C" AS code
          FROM func AS f
          CROSS JOIN LATERAL regexp_matches(pg_get_functiondef(f.oid), 'ERRCODE = ''(\w+)''|ARRAY\[''(\w{5})''', 'g') AS r (code)
          ORDER BY code),
    '{22004,22008,22023,54000,PGQ01,PGQ02,PGQ03,PGQ04,active_sql_transaction,array_subscript_error,datetime_field_overflow,insufficient_privilege,invalid_parameter_value,
      invalid_transaction_state,lock_not_available,null_value_not_allowed,object_not_in_prerequisite_state,program_limit_exceeded,undefined_object}'::text[],
    'these are the errors, and the other files provoke each of them');

-- Every list of a job's columns is complete: a nullable column that is left out is lost without an error.
CREATE TEMP VIEW col AS
SELECT c.relname, a.attrelid, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull, a.attstorage,
       a.attname = 'signature' AS is_of_waiting
FROM rel AS c
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relname IN ('pgq_waiting', 'pgq_blocked', 'pgq_running', 'pgq_ended');

CREATE TEMP VIEW shared AS
SELECT * FROM col WHERE relname = 'pgq_waiting' AND NOT is_of_waiting;

SELECT is_empty($$
    SELECT o.relname, s.attname
    FROM shared AS s
    CROSS JOIN (VALUES ('pgq_blocked'), ('pgq_running'), ('pgq_ended')) AS o (relname)
    LEFT JOIN col AS c ON c.relname = o.relname AND c.attname = s.attname
    WHERE (c.type, c.attnotnull, c.attstorage)
          IS DISTINCT FROM (s.type, s.attnotnull OR s.attname = 'max_retries' AND o.relname <> 'pgq_blocked', s.attstorage)
$$, 'each column of pgq_waiting is in pgq_blocked, pgq_running and pgq_ended, with the same type, NOT NULL and storage, but for max_retries, which a claim sets');

CREATE TEMP VIEW job_insert AS
SELECT f.name, i.part[1] AS relname, string_to_array(regexp_replace(i.part[2], '\s', '', 'g'), ',') AS columns
FROM func AS f
CROSS JOIN LATERAL regexp_matches(
    pg_get_functiondef(f.oid), 'INSERT INTO\s+(pgq_(?:waiting|blocked|running|ended))\M\s*(?:AS\s+\w+)?\s*(?:\(([^()]*)\))?', 'gi') AS i (part);

SELECT is(
    (SELECT string_agg(DISTINCT relname, ' ' ORDER BY relname) FROM job_insert),
    'pgq_blocked pgq_ended pgq_running pgq_waiting',
    'jobs are inserted into each of the four tables');
SELECT is_empty($$
    SELECT i.name, i.relname, s.attname
    FROM job_insert AS i
    JOIN col AS s ON s.relname = 'pgq_waiting' AND (NOT s.is_of_waiting OR i.relname IN ('pgq_waiting', 'pgq_blocked'))
    WHERE s.attname <> ALL (coalesce(i.columns, '{}'))
$$, 'every INSERT of a job names all columns that the tables share, and one of a waiting or blocked job its signature');

-- A row with a priority out of range or an infinite ripe_at would break claims, and no CHECK refuses it.
SELECT is(
    (SELECT array_agg(proname::text ORDER BY proname::text COLLATE "C") FROM func
     WHERE pg_get_functiondef(oid) ~* '(INSERT INTO|UPDATE)\s+pgq_waiting\M'),
    '{_pgq_draw_ids,_pgq_enqueue_scheduled,_pgq_hand_over_signals,_pgq_keep_place,_pgq_leave_room,_pgq_merge,_pgq_requeue,_pgq_resolve_duplicate,_pgq_resolve_duplicates,_pgq_set_defaults,_pgq_unblock,_pgq_update_duplicates,_pgq_wake_waiting,pgq_enqueue,pgq_enqueue_many,pgq_retry,pgq_update}',
    'only these functions write to pgq_waiting, values that they, their callers or an earlier enqueue have checked');

-- Each of the two indexes on the queue is partial, so a search by queue names one of them.
SELECT is_empty($$
    SELECT f.name, s.part[1]
    FROM func AS f
    CROSS JOIN LATERAL regexp_matches(
        pg_get_functiondef(f.oid), 'FROM pgq_waiting AS w\s+WHERE ((?:(?!ORDER BY|LIMIT)[^;])*w\.queue(?:(?!ORDER BY|LIMIT)[^;])*)', 'g') AS s (part)
    WHERE s.part[1] !~ 'w\.(group_id (IS|=|>)|ctid = ANY)'
$$, 'a search for waiting jobs of a queue says whether they have a group');

CREATE TEMP VIEW used AS
SELECT v.relname AS view, r.relname, a.attname
FROM pg_depend AS d
JOIN pg_rewrite AS w ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
JOIN rel AS v ON v.oid = w.ev_class
JOIN rel AS r ON d.refclassid = 'pg_class'::regclass AND r.oid = d.refobjid
JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attnum = d.refobjsubid;

SELECT is_empty($$
    -- Each table is read by one arm of the view, so the columns that the view depends on are those of the arm. That of the
    -- running jobs reads _pgq_running.
    SELECT c.relname, c.attname, 'arm' AS place
    FROM col AS c
    WHERE NOT EXISTS (
        SELECT FROM used AS u
        WHERE u.view = 'pgq_jobs' AND u.attname = c.attname
          AND u.relname = CASE c.relname WHEN 'pgq_running' THEN '_pgq_running' ELSE c.relname END)
    UNION ALL
    SELECT c.relname, c.attname, 'view'
    FROM col AS c
    WHERE c.attname NOT IN (SELECT attname FROM pg_attribute WHERE attrelid = (SELECT oid FROM rel WHERE relname = 'pgq_jobs'))
    EXCEPT
    SELECT e.relname, e.attname, p.place
    FROM (VALUES ('arm'), ('view')) AS p (place)
    -- Only pgq uses a signature or the number of a group, and a token gives power over its job. The view shows an outcome as the state, and the
    -- errors instead of the number of the newest.
    JOIN (VALUES ('pgq_waiting', 'signature', true), ('pgq_blocked', 'signature', true), ('pgq_blocked', 'group_id', true),
                 ('pgq_blocked', 'newest_error', false), ('pgq_blocked', 'after_failed', true), ('pgq_running', 'token', true), ('pgq_ended', 'outcome', false),
                 ('pgq_waiting', 'group_id', true), ('pgq_running', 'group_id', true), ('pgq_ended', 'group_id', true),
                 ('pgq_waiting', 'newest_error', false), ('pgq_running', 'newest_error', false), ('pgq_ended', 'newest_error', false))
        AS e (relname, attname, in_arm_too) ON p.place = 'view' OR e.in_arm_too
$$, 'each arm of pgq_jobs shows all columns of its table, but for the signature, the number of the group and the token');

-- Running jobs are in two tables, so what reads one of them reads the view that has both.
SELECT results_eq($$
    SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
    WHERE attrelid = (SELECT oid FROM rel WHERE relname = '_pgq_running') AND attnum > 0 ORDER BY attnum $$, $$
    SELECT attname, type FROM col WHERE relname = 'pgq_running' ORDER BY attnum $$,
    '_pgq_running has the columns of pgq_running');
SELECT is_empty($$
    SELECT a.attname FROM rel AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relname = 'pgq_running_batch'
    EXCEPT
    SELECT attname FROM used WHERE view = '_pgq_packed' AND relname = 'pgq_running_batch'
$$, '_pgq_packed shows all columns of pgq_running_batch');

-- Those that store jobs, and those that change jobs, which they lock, and unpack before where it takes a row; and one that looks for a job
-- in both tables, without the view, which reads all columns.
SELECT is(
    (SELECT array_agg(name ORDER BY name COLLATE "C") FROM (
        SELECT proname::text AS name FROM func WHERE pg_get_functiondef(oid) ~* '\m(from|join|update|into|table)\s+pgq_running(_batch)?\M'
        UNION
        SELECT view FROM used WHERE relname IN ('pgq_running', 'pgq_running_batch')) AS t),
    '{_pgq_begin_limits,_pgq_caps,_pgq_complete_held,_pgq_complete_packed,_pgq_counters,_pgq_expire_leases,_pgq_fire,_pgq_mark_lost,_pgq_move_in_turn,_pgq_packed,_pgq_running,_pgq_settle_over,_pgq_sweep_workers,_pgq_take,_pgq_unpack,
      _pgq_unpack_jobs,pgq_cancel,pgq_claim,pgq_claim_batch,pgq_complete,pgq_extend,pgq_find_jobs,pgq_hold,pgq_hold_many,pgq_reconcile,pgq_save}',
    'these are the functions and views that name a table of running jobs; all others read _pgq_running');

SELECT is_empty($$
    SELECT i.indexrelid::regclass, a.attname, l.collname
    FROM pg_index AS i
    CROSS JOIN LATERAL unnest(i.indcollation) WITH ORDINALITY AS c (oid, n)
    JOIN pg_attribute AS a ON a.attrelid = i.indexrelid AND a.attnum = c.n
    JOIN pg_collation AS l ON l.oid = c.oid
    WHERE i.indrelid IN (SELECT oid FROM rel) AND (l.collname, l.collnamespace) IS DISTINCT FROM ('C', 'pg_catalog'::regnamespace)
$$, 'the order of no index depends on the collation of the database');

SELECT is_empty($$
    SELECT c.relname
    FROM pg_class AS c
    WHERE c.oid IN (SELECT oid FROM rel WHERE relkind = 'r')
      AND c.relpersistence = 'p'
      AND NOT (c.relreplident = 'f' OR EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisprimary))
$$, 'rows of every table can be deleted when a publication has it');

CREATE ROLE tap_reader;
SELECT pgq_grant('tap_reader', 'reader');
SELECT set_eq(
    $$ SELECT attname::text FROM pg_attribute
       WHERE attrelid = (SELECT oid FROM rel WHERE relname = 'pgq_jobs') AND attnum > 0
         AND NOT has_column_privilege('tap_reader', attrelid, attnum, 'SELECT') $$,
    '{args,dedup_key,errors,result,context,group_key,saved}'::text[],
    'a reader may read all columns of pgq_jobs, except the private ones');

SELECT * FROM finish();
ROLLBACK;
