\echo Use "CREATE EXTENSION pgq" to load this file. \quit
DO $install_head$
DECLARE
    c_schema CONSTANT text := current_schema();
    v_version text;
    v_extension boolean;
BEGIN
    IF c_schema IS NULL THEN
        RAISE EXCEPTION 'no schema of the search path "%" exists', current_setting('search_path')
            USING ERRCODE = 'invalid_schema_name',
                  HINT = 'Create the schema that pgq shall live in, or set search_path to one that exists.';
    END IF;
    -- Functions record this path (SET search_path FROM CURRENT): it must name the one schema and nothing that another
    -- role could plant objects in.
    PERFORM set_config('search_path', format('%I, pg_temp', c_schema), true);

    IF EXISTS (
        SELECT FROM pg_proc AS p
        JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE n.nspname = 'pgq'
          AND p.proname IN ('create_queue', 'insert_event', 'next_batch')
    ) THEN
        RAISE EXCEPTION 'this database holds another pgq: PgQ of Skytools, in the schema "pgq"'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Use another database: the two share the name of their extension.';
    END IF;

    -- Read, not called: whoever may create functions here could have planted it.
    SELECT substring(pg_get_function_sqlbody(p.oid) FROM '''(.*)'''),
           EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
    INTO v_version, v_extension
    FROM pg_proc AS p
    WHERE p.oid = to_regprocedure(format('%I.pgq_version()', c_schema));
    IF v_version IS NOT NULL THEN
        RAISE EXCEPTION 'pgq % is installed in the schema "%" already, %',
              v_version, c_schema, CASE WHEN v_extension THEN 'as an extension' ELSE 'from the plain script' END
            USING ERRCODE = 'duplicate_object',
                  HINT = CASE
                      WHEN v_version = '0.2.0' THEN
                          'It is complete as it is; another one takes another schema, and "pgq uninstall" removes it.'
                      WHEN v_extension THEN 'Bring it up to date with ALTER EXTENSION pgq UPDATE.'
                      ELSE 'Bring it up to date with "pgq upgrade".'
                  END;
    END IF;
END
$install_head$;
-- pgq 0.2.0: a job queue that is just PostgreSQL.
--
-- A job lives in exactly one of three tables, and the table is its state:
--
--   pgq_waiting   ripe now, or later at ripe_at
--   pgq_running   claimed by a worker, under a token and until a lease runs out
--   pgq_ended     dead, cancelled, or done with a result that somebody wants to read
--
-- It keeps its id on the way:
--
--   pgq_enqueue --> waiting -- pgq_claim --> running -- pgq_complete --> (gone, or ended as done)
--                      ^                        |
--                      +-- pgq_fail, pgq_snooze, pgq_release, expired lease
--                      |                        +-- retries used up --> ended as dead
--                      +-- pgq_retry <-------------------------------- ended
--
-- Whatever returns to waiting inserts with ON CONFLICT (signature) DO NOTHING: where a twin is waiting
-- already, the two merge. A claim hands out a token; every verb that touches a running job wants it back,
-- so a worker that has lost its lease changes nothing.
--
-- All of it goes into one schema, the first of the search path. Every function is SECURITY DEFINER or
-- reads no table, pins that schema as its search path, and can be executed only by whom pgq_grant names.
-- What everything else stands on: the clock, the version, the signature of a job.

CREATE FUNCTION pgq_now() RETURNS timestamptz
    LANGUAGE sql
    VOLATILE
    RETURN clock_timestamp();

COMMENT ON FUNCTION pgq_now() IS
    'The clock that every function of pgq reads: the server''s own. A test kit may swap the body to travel in time.';


CREATE FUNCTION pgq_version() RETURNS text
    LANGUAGE sql
    IMMUTABLE
    RETURN '0.2.0';

COMMENT ON FUNCTION pgq_version() IS
    'The version of the installed SQL.';


-- The generated column pgq_waiting.signature calls this: another body would leave the stored values of the
-- rows that are waiting behind, and their twins would no longer be found.
--
-- The separators make the text unambiguous, because _pgq_problem refuses them in queue and kind; 'a' and 'k'
-- keep a key from passing for arguments. The queue takes part so that nobody can suppress the jobs of a queue
-- by planting their twins in another one.
CREATE FUNCTION _pgq_signature(queue text, kind text, args jsonb, dedup_key text) RETURNS uuid
    LANGUAGE sql
    IMMUTABLE
    RETURN md5(
        queue || E'\x1f' || kind || E'\x1f' || CASE WHEN dedup_key IS NULL THEN 'a' || args::text ELSE 'k' || dedup_key END
    )::uuid;

COMMENT ON FUNCTION _pgq_signature(text, text, jsonb, text) IS
    'What makes two jobs twins: MD5 over queue, kind, and the dedup key or else the arguments.';
-- Who may use which queues.
--
-- EXECUTE is the first gate: PostgreSQL itself keeps out who was granted nothing. The second is the row that pgq_grant
-- writes beside it, and it is for the functions to ask, because they act with the rights of the owner and see all queues.
--
-- Whom a function acts for is what the session says: the role of SET ROLE, or else the one it was opened for. A role
-- between the two, the owner of a SECURITY DEFINER function that calls pgq, cannot be told from inside, so it lends
-- nobody its queues. Membership counts as PostgreSQL counts it: that of a role that inherits.

-- By oid, because a role that is renamed keeps its rights and one that is dropped and made again does not get them back.
CREATE TABLE pgq_permission (
    what   text    NOT NULL,
    role   regrole NOT NULL,
    queues text[],

    CONSTRAINT pgq_permission_pkey PRIMARY KEY (what, role),

    CONSTRAINT pgq_permission_what_check CHECK (what IN ('producer', 'worker', 'admin', 'reader'))
);

COMMENT ON TABLE pgq_permission IS 'Which queues a role may use, beside its privileges; written by pgq_grant and pgq_revoke.';
COMMENT ON COLUMN pgq_permission.what IS 'As what: producer, worker, admin or reader.';
COMMENT ON COLUMN pgq_permission.role IS 'The role; its members, too, if they inherit.';
COMMENT ON COLUMN pgq_permission.queues IS 'The queues; NULL: all.';


CREATE FUNCTION _pgq_caller() RETURNS name
    LANGUAGE sql
    STABLE
    RETURN CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role')::name END;

COMMENT ON FUNCTION _pgq_caller() IS
    'The role that a function which acts with the rights of the owner is acting for.';


-- Asked once in each call, so that a filter by queue is as dear for many jobs as for one.
--
-- In an index expression or a materialized view PostgreSQL lets the owner of the table act in a session of whoever
-- analyzes, reindexes or refreshes it, autovacuum included; in such a place, and nowhere else, it refuses UNLISTEN.
CREATE FUNCTION _pgq_limit(what text) RETURNS text[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_limit$
DECLARE
    v_queues text[];
    v_limit text[] := '{}';
BEGIN
    UNLISTEN pgq_nothing;

    IF pg_has_role(_pgq_caller(), current_user, 'USAGE') THEN
        RETURN NULL;
    END IF;
    FOR v_queues IN
        SELECT p.queues
        FROM pgq_permission AS p
        WHERE p.what = _pgq_limit.what
          AND pg_has_role(_pgq_caller(), p.role::oid, 'USAGE')
    LOOP
        IF v_queues IS NULL THEN
            RETURN NULL;
        END IF;
        v_limit := v_limit || v_queues;
    END LOOP;
    RETURN v_limit;
END
$_pgq_limit$;

COMMENT ON FUNCTION _pgq_limit(text) IS
    'The queues that the caller is limited to as a producer, worker, admin or reader; NULL: he may use all.';


-- To be called before anything is looked up or locked: the answer must not depend on what there is.
CREATE FUNCTION _pgq_refuse(queue text, what text) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_refuse$
BEGIN
    RAISE EXCEPTION 'role "%" may not use queue "%" as %', _pgq_caller(), left(queue, 200), what
        USING ERRCODE = 'insufficient_privilege',
              HINT = format('The owner of pgq can change that: SELECT pgq_grant(%L, %L, ARRAY[%L]).',
                            _pgq_caller(), what, left(queue, 200));
END
$_pgq_refuse$;

COMMENT ON FUNCTION _pgq_refuse(text, text) IS
    'Raise 42501: the caller may not use the queue as a producer, worker or admin.';
-- Jobs that wait for a worker.
--
-- A row moves between the three tables and is hardly ever changed in place, so they share their first columns. What is
-- checked here is only what a claim depends on: PostgreSQL parses every check anew for every statement, and ten of them
-- cost as much as all the rest of an insert. pgq_enqueue and pgq_enqueue_many refuse bad values themselves.

CREATE TABLE pgq_waiting (
    id          bigint      NOT NULL GENERATED BY DEFAULT AS IDENTITY (SEQUENCE NAME pgq_job_id),
    queue       text        NOT NULL,
    kind        text        NOT NULL,
    args        jsonb       NOT NULL,
    priority    smallint    NOT NULL,
    ripe_at     timestamptz NOT NULL,
    attempt     integer     NOT NULL,
    max_retries integer     NOT NULL,
    backoff     interval    NOT NULL,
    backoff_cap interval    NOT NULL,
    dedup       boolean     NOT NULL,
    dedup_key   text,
    enqueued_at timestamptz NOT NULL,
    errors      jsonb       NOT NULL,
    context     jsonb,
    signature   uuid        GENERATED ALWAYS AS (CASE WHEN dedup THEN _pgq_signature(queue, kind, args, dedup_key) END) STORED,

    CONSTRAINT pgq_waiting_pkey PRIMARY KEY (id),
    CONSTRAINT pgq_waiting_signature_key UNIQUE (signature),

    CONSTRAINT pgq_waiting_check CHECK (priority BETWEEN 0 AND 9 AND isfinite(ripe_at))
)
-- Room on each page for pgq_enqueue(on_duplicate => 'replace') to stay there; vacuum early and without rest,
-- because each job leaves a dead row and three dead index entries behind.
WITH (
    fillfactor = 90,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0.01,
    toast.autovacuum_vacuum_cost_delay = 0
);

-- One lane of the claim (a queue at one priority) is one range of this index, in the order of the hand-out.
CREATE INDEX pgq_waiting_claim ON pgq_waiting (queue, priority, ripe_at, id);

COMMENT ON TABLE pgq_waiting IS 'Jobs that wait for a worker: ripe now, or later.';
COMMENT ON COLUMN pgq_waiting.id IS 'Number of the job, the same through all its states.';
COMMENT ON COLUMN pgq_waiting.queue IS 'Queue whose workers may claim the job.';
COMMENT ON COLUMN pgq_waiting.kind IS 'Kind of work; a worker finds its handler by it.';
COMMENT ON COLUMN pgq_waiting.args IS 'Arguments for the handler, any JSON of at most 1 MiB as text.';
COMMENT ON COLUMN pgq_waiting.priority IS 'From 0, handed out first, to 9, handed out last.';
COMMENT ON COLUMN pgq_waiting.ripe_at IS 'The job is not handed out before this time.';
COMMENT ON COLUMN pgq_waiting.attempt IS 'Number of claims so far; 0 for a job that was never claimed.';
COMMENT ON COLUMN pgq_waiting.max_retries IS 'Attempts allowed after the first one.';
COMMENT ON COLUMN pgq_waiting.backoff IS 'Delay before the first retry; it doubles with each further one.';
COMMENT ON COLUMN pgq_waiting.backoff_cap IS 'Longest delay between two attempts, jitter aside.';
COMMENT ON COLUMN pgq_waiting.dedup IS 'Whether the job has a signature, so that no twin of it can wait beside it.';
COMMENT ON COLUMN pgq_waiting.dedup_key IS 'What decides about twins instead of the arguments; NULL: the arguments do.';
COMMENT ON COLUMN pgq_waiting.enqueued_at IS 'When the job was enqueued.';
COMMENT ON COLUMN pgq_waiting.errors IS 'The newest ten failures, newest first: attempt, at, worker, error.';
COMMENT ON COLUMN pgq_waiting.context IS 'What travels with the job without being part of it, such as a trace; NULL: nothing.';
COMMENT ON COLUMN pgq_waiting.signature IS 'MD5 over queue, kind, and dedup_key or args; NULL without dedup.';
COMMENT ON SEQUENCE pgq_job_id IS 'Numbers the jobs.';

-- Compressed arguments would be compressed anew each time the row moves to another table.
ALTER TABLE pgq_waiting ALTER COLUMN args SET STORAGE EXTERNAL;
-- Jobs that a worker has claimed, each under its token and until its lease runs out.

CREATE TABLE pgq_running (
    id          bigint      NOT NULL,
    queue       text        NOT NULL,
    kind        text        NOT NULL,
    args        jsonb       NOT NULL,
    priority    smallint    NOT NULL,
    ripe_at     timestamptz NOT NULL,
    attempt     integer     NOT NULL,
    max_retries integer     NOT NULL,
    backoff     interval    NOT NULL,
    backoff_cap interval    NOT NULL,
    dedup       boolean     NOT NULL,
    dedup_key   text,
    enqueued_at timestamptz NOT NULL,
    errors      jsonb       NOT NULL,
    context     jsonb,
    token       bigint      NOT NULL,
    lease_until timestamptz NOT NULL,
    worker      text,
    claimed_at  timestamptz NOT NULL,

    CONSTRAINT pgq_running_pkey PRIMARY KEY (id),

    CONSTRAINT pgq_running_check CHECK (isfinite(lease_until))
)
-- Rows live for one attempt: vacuum as early as for pgq_waiting.
WITH (
    fillfactor = 90,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0.01,
    toast.autovacuum_vacuum_cost_delay = 0
);

CREATE INDEX pgq_running_lease ON pgq_running (lease_until);

-- A token is the time of the claim in microseconds, and ten bits of this sequence. Nothing else about a claim is unique: a
-- retry by hand starts the attempts again, and two workers may share a name. Nor is the sequence by itself: a crash sets
-- it back, when the claims that did not wait for the disk are lost.
CREATE SEQUENCE pgq_token AS bigint;

COMMENT ON TABLE pgq_running IS 'Jobs that a worker has claimed. Columns as in pgq_waiting, and the claim''s own.';
COMMENT ON COLUMN pgq_running.token IS 'Names this one claim; whoever acts on the job must show it.';
COMMENT ON COLUMN pgq_running.lease_until IS 'When the worker loses the job, unless it is done with it or extends the lease.';
COMMENT ON COLUMN pgq_running.worker IS 'What the worker called itself at the claim; NULL: nothing.';
COMMENT ON COLUMN pgq_running.claimed_at IS 'When the job was claimed.';
COMMENT ON SEQUENCE pgq_token IS 'Tells the claims of one moment apart.';

-- As in pgq_waiting.
ALTER TABLE pgq_running ALTER COLUMN args SET STORAGE EXTERNAL;
-- Jobs that are over: dead, cancelled, or done with a result.

CREATE TABLE pgq_ended (
    id          bigint      NOT NULL,
    queue       text        NOT NULL,
    kind        text        NOT NULL,
    args        jsonb       NOT NULL,
    priority    smallint    NOT NULL,
    ripe_at     timestamptz NOT NULL,
    attempt     integer     NOT NULL,
    max_retries integer     NOT NULL,
    backoff     interval    NOT NULL,
    backoff_cap interval    NOT NULL,
    dedup       boolean     NOT NULL,
    dedup_key   text,
    enqueued_at timestamptz NOT NULL,
    errors      jsonb       NOT NULL,
    context     jsonb,
    outcome     text        NOT NULL,
    result      jsonb,
    worker      text,
    ended_at    timestamptz NOT NULL,

    CONSTRAINT pgq_ended_pkey PRIMARY KEY (id),

    CONSTRAINT pgq_ended_outcome_check CHECK (outcome IN ('dead', 'cancelled', 'done')),
    CONSTRAINT pgq_ended_result_check CHECK (octet_length(result::text) <= 1048576)
);

CREATE INDEX pgq_ended_ended_at ON pgq_ended (ended_at);

COMMENT ON TABLE pgq_ended IS 'Jobs that are over, until pgq_purge removes them. Columns as in pgq_waiting, and the end''s own.';
COMMENT ON COLUMN pgq_ended.outcome IS 'dead (retries used up, or not worth one), cancelled (by an operator or a worker), or done (completed with a result).';
COMMENT ON COLUMN pgq_ended.result IS 'What pgq_complete was given; NULL unless done.';
COMMENT ON COLUMN pgq_ended.worker IS 'The worker of the last attempt; NULL: none, or one without a name.';
COMMENT ON COLUMN pgq_ended.ended_at IS 'When the job ended.';

-- As in pgq_waiting.
ALTER TABLE pgq_ended ALTER COLUMN args SET STORAGE EXTERNAL;
-- Where the live jobs of a queue begin, for sessions that have not looked themselves.
--
-- A hint and nothing more: a session that finds it missing, old or wrong looks for itself, and after a crash the table is
-- empty. Rows are added and old ones removed, but never changed: so nobody waits for anybody, and the newest row is the
-- first in its index, however many dead ones a snapshot keeps.

CREATE UNLOGGED TABLE pgq_head (
    queue text        NOT NULL,
    due   timestamptz NOT NULL,
    pause interval    NOT NULL,
    here  bigint[]    NOT NULL,
    next  bigint[]    NOT NULL
);

CREATE INDEX pgq_head_due ON pgq_head (queue, due);

COMMENT ON TABLE pgq_head IS 'Where the live jobs of a queue begin, as the last long scan of its lanes found it.';
COMMENT ON COLUMN pgq_head.queue IS 'The queue; empty for the search for expired leases, which has no lanes.';
COMMENT ON COLUMN pgq_head.due IS 'When such a scan may be made again.';
COMMENT ON COLUMN pgq_head.pause IS 'How far apart such scans are to be, in proportion to what the last one cost.';
COMMENT ON COLUMN pgq_head.here IS
    'For each priority two numbers, ripe_at in microseconds since 1970 and id: live jobs come after; NULL where unknown.';
COMMENT ON COLUMN pgq_head.next IS 'Where the head of each lane moves next, likewise.';
-- Workers that have said so, each for as long as the session in which it did.
--
-- Whether a worker is there is not written down, for a worker that is killed writes nothing: its session holds an advisory
-- lock, exclusively, whose key is the oid of this table and the number of the row. The row itself is written when the
-- worker comes and when it goes. There is no heartbeat: a row that is updated all the time would grow a chain of dead
-- versions.

CREATE TABLE pgq_worker (
    name          text        NOT NULL,
    number        integer     NOT NULL GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME pgq_worker_number CYCLE),
    queues        text[]      NOT NULL,
    host          text,
    pid           integer,
    registered_at timestamptz NOT NULL,
    gone_at       timestamptz,
    reach         text[],

    CONSTRAINT pgq_worker_pkey PRIMARY KEY (name),
    CONSTRAINT pgq_worker_number_key UNIQUE (number)
);

COMMENT ON TABLE pgq_worker IS 'Workers that have registered and did not leave.';
COMMENT ON COLUMN pgq_worker.name IS 'What the worker calls itself at its claims; of one process, and of no later one.';
COMMENT ON COLUMN pgq_worker.number IS 'Second part of the key of the lock that its session holds.';
COMMENT ON COLUMN pgq_worker.queues IS 'Queues that it serves.';
COMMENT ON COLUMN pgq_worker.host IS 'Where it runs, as it says itself; NULL: it does not say.';
COMMENT ON COLUMN pgq_worker.pid IS 'Its process there, likewise.';
COMMENT ON COLUMN pgq_worker.registered_at IS 'When it registered first.';
COMMENT ON COLUMN pgq_worker.gone_at IS 'When somebody noticed that its session is gone; NULL: nobody has.';
COMMENT ON COLUMN pgq_worker.reach IS 'Queues whose jobs it may hold, as far as its role is limited to some; NULL: all.';
COMMENT ON SEQUENCE pgq_worker_number IS 'Numbers the workers.';
-- Who sleeps, and how an enqueue wakes him without troubling a queue whose workers are all awake.
--
-- A notification takes a lock at commit that all sessions share, so it is sent only where a worker sleeps. One that does
-- holds the advisory lock of its queue in shared mode; whoever makes a job ripe tries to get it exclusively. A job that
-- is committed by somebody who looked just before the worker fell asleep is found by the worker's poll.
--
-- The key of the lock has two parts: the oid of pgq_waiting, which no other installation in this database has, and a
-- hash of the queue. Two queues with the same hash wake each other's workers, at worst.

CREATE FUNCTION _pgq_channel(queue text) RETURNS text
    LANGUAGE sql
    STABLE
    RETURN 'pgq_' || 'pgq_waiting'::regclass::oid || '_' || md5(queue);

COMMENT ON FUNCTION _pgq_channel(text) IS
    'The channel on which the sleeping workers of a queue are notified.';


-- An expression, so that it is inlined.
CREATE FUNCTION _pgq_wake(queue text) RETURNS boolean
    LANGUAGE sql
    VOLATILE
    RETURN CASE
        WHEN pg_try_advisory_lock('pgq_waiting'::regclass::oid::integer, hashtext(queue)) THEN
            NOT pg_advisory_unlock('pgq_waiting'::regclass::oid::integer, hashtext(queue))
        ELSE
            pg_notify(_pgq_channel(queue), '') IS NOT NULL
    END;

COMMENT ON FUNCTION _pgq_wake(text) IS
    'Notify the workers of a queue when this transaction commits, if one of them sleeps; answers whether.';


CREATE FUNCTION pgq_idle(queues text[] DEFAULT '{default}', idle boolean DEFAULT true) RETURNS SETOF text
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_idle$
DECLARE
    c_class CONSTANT integer := 'pgq_waiting'::regclass::oid::integer;
    v_queue text;
    v_asleep boolean;
BEGIN
    IF idle IS NULL THEN
        RAISE EXCEPTION 'idle is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Say true before the session sleeps and false when it is awake again.';
    END IF;
    PERFORM _pgq_check_claim(queues, 0, NULL);

    FOREACH v_queue IN ARRAY queues LOOP
        -- Session locks are counted; a second one would outlive the next waking.
        v_asleep := EXISTS (
            SELECT FROM pg_locks AS l
            WHERE l.locktype = 'advisory'
              AND l.pid = pg_backend_pid()
              AND l.classid = 'pgq_waiting'::regclass
              AND l.objid::integer = hashtext(v_queue)
              AND l.objsubid = 2);
        IF NOT idle AND v_asleep THEN
            PERFORM pg_advisory_unlock_shared(c_class, hashtext(v_queue));
        END IF;
        -- An enqueue has it for a moment; to wait for it for longer would be to trust a stranger.
        FOR v_try IN 1..20 LOOP
            EXIT WHEN v_asleep OR NOT idle;
            v_asleep := pg_try_advisory_lock_shared(c_class, hashtext(v_queue));
            IF NOT v_asleep THEN
                PERFORM pg_sleep(0.001);
            END IF;
        END LOOP;
        RETURN NEXT _pgq_channel(v_queue);
    END LOOP;
END
$pgq_idle$;

COMMENT ON FUNCTION pgq_idle(text[], boolean) IS
    'Say that this session is about to sleep until there are jobs in these queues (true), or awake again (false), and '
    'answer the channels, one for each queue, on which it is notified of ripe jobs while it sleeps. LISTEN to them, call '
    'this, claim once more, then sleep: no longer than a poll, for a notification is a hint. NULL is refused (22004), bad '
    'values raise 22023, a queue that your role may not use 42501.';
-- Enqueue one job, in the caller's transaction.

-- NULL for a job that is fine, otherwise SQLSTATE, message and hint. An expression, so that it is inlined into
-- the set-based check of pgq_enqueue_many as well.
CREATE FUNCTION _pgq_problem(
    kind text,
    args jsonb,
    queue text,
    ripe_at timestamptz,
    delay interval,
    priority integer,
    max_retries integer,
    backoff interval,
    backoff_cap interval,
    dedup_key text,
    on_duplicate text,
    context jsonb,
    at timestamptz
) RETURNS text[]
    LANGUAGE sql
    STABLE
    RETURN CASE
        WHEN kind IS NULL THEN
            ARRAY['22004', 'kind is null', 'Name the kind of work; a worker finds its handler by it.']
        WHEN octet_length(kind) NOT BETWEEN 1 AND 200 OR strpos(kind, E'\x1f') > 0 THEN
            ARRAY['22023', format('kind "%s" is not a name', left(kind, 200)), 'Use 1 to 200 bytes without the character U+001F.']
        WHEN queue IS NULL THEN
            ARRAY['22004', 'queue is null', 'Name a queue, or leave the argument out for the queue "default".']
        WHEN octet_length(queue) NOT BETWEEN 1 AND 200 OR strpos(queue, E'\x1f') > 0 THEN
            ARRAY['22023', format('queue "%s" is not a name', left(queue, 200)), 'Use 1 to 200 bytes without the character U+001F.']
        WHEN args IS NULL THEN
            ARRAY['22004', 'args is null', 'Pass any JSON, such as {} or the JSON null, but not the SQL NULL.']
        WHEN octet_length(args::text) > 1048576 THEN
            ARRAY['54000', format('args take %s bytes as text, more than 1048576', octet_length(args::text)),
                  'Store large data in a table of your own and enqueue a reference to it.']
        WHEN ripe_at IS NOT NULL AND delay IS NOT NULL THEN
            ARRAY['22023', 'both ripe_at and delay are given', 'Give one of the two, or neither for a job that is ripe now.']
        WHEN ripe_at NOT BETWEEN at - interval '100 years' AND at + interval '100 years' THEN
            ARRAY['22008', format('ripe_at %s is out of range', ripe_at), 'Give a time within a hundred years of now.']
        -- Months and days of opposite signs can make what is small when compared, but large or negative when added.
        WHEN delay NOT BETWEEN interval '0' AND interval '100 years'
             OR at + delay NOT BETWEEN at AND at + interval '100 years' THEN
            ARRAY['22023', format('delay %s is out of range', delay), 'Give an interval from 0 to 100 years.']
        WHEN priority NOT BETWEEN 0 AND 9 THEN
            ARRAY['22023', format('priority %s is out of range', priority), 'Give a number from 0 (first) to 9 (last).']
        WHEN max_retries < 0 THEN
            ARRAY['22023', format('max_retries %s is negative', max_retries), 'Give 0 for a job that has one attempt only.']
        WHEN backoff NOT BETWEEN interval '0' AND interval '100 years' THEN
            ARRAY['22023', format('backoff %s is out of range', backoff), 'Give an interval from 0 to 100 years.']
        WHEN backoff_cap NOT BETWEEN interval '0' AND interval '100 years' THEN
            ARRAY['22023', format('backoff_cap %s is out of range', backoff_cap), 'Give an interval from 0 to 100 years.']
        WHEN octet_length(dedup_key) > 1000 THEN
            ARRAY['22023', format('dedup_key takes %s bytes, more than 1000', octet_length(dedup_key)), 'Use a digest of it instead.']
        WHEN on_duplicate NOT IN ('keep', 'replace', 'soonest', 'error') THEN
            ARRAY['22023', format('on_duplicate "%s" is unknown', left(on_duplicate, 200)), 'Use keep, replace, soonest or error.']
        WHEN jsonb_typeof(context) <> 'object' OR octet_length(context::text) > 8192 THEN
            ARRAY['22023', 'context is not an object of at most 8192 bytes', 'Pass what is needed to continue a trace, or NULL.']
    END;

COMMENT ON FUNCTION _pgq_problem(text, jsonb, text, timestamptz, interval, integer, integer, interval, interval, text, text, jsonb, timestamptz) IS
    'What is wrong with a job to be enqueued: SQLSTATE, message and hint, or NULL.';


CREATE FUNCTION pgq_enqueue(
    kind text,
    args jsonb DEFAULT '{}',
    queue text DEFAULT 'default',
    ripe_at timestamptz DEFAULT NULL,
    delay interval DEFAULT NULL,
    priority integer DEFAULT 5,
    max_retries integer DEFAULT 10,
    backoff interval DEFAULT '1 minute',
    backoff_cap interval DEFAULT '1 hour',
    dedup boolean DEFAULT true,
    dedup_key text DEFAULT NULL,
    on_duplicate text DEFAULT 'keep',
    context jsonb DEFAULT NULL,
    OUT id bigint,
    OUT created boolean
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_enqueue$
DECLARE
    v_now timestamptz := pgq_now();
    v_limit text[] := _pgq_limit('producer');
    v_id bigint;
    v_ripe_at timestamptz;
    v_priority integer := coalesce(priority, 5);
    v_signature uuid;
    v_awake boolean;
    v_problem text[] := _pgq_problem(
        kind, args, queue, ripe_at, delay, priority, max_retries, backoff, backoff_cap, dedup_key, on_duplicate, context, v_now);
BEGIN
    IF v_problem IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = v_problem[1], MESSAGE = v_problem[2], HINT = v_problem[3];
    END IF;
    IF queue <> ALL (v_limit) THEN
        PERFORM _pgq_refuse(queue, 'producer');
    END IF;
    v_id := nextval('pgq_job_id');
    v_ripe_at := coalesce(ripe_at, v_now + delay, v_now);

    -- Once round, unless the twin is claimed between the two statements: then there is none, and the job is new.
    LOOP
        INSERT INTO pgq_waiting (
            id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
            enqueued_at, errors, context
        )
        VALUES (
            v_id, queue, kind, args, v_priority, v_ripe_at, 0, coalesce(max_retries, 10), coalesce(backoff, '1 minute'),
            coalesce(backoff_cap, '1 hour'), coalesce(dedup, true), dedup_key, v_now, '[]', context
        )
        ON CONFLICT (signature) DO NOTHING;

        IF FOUND THEN
            pgq_enqueue.id := v_id;
            created := true;
            -- Assigned, because PERFORM would cost a statement.
            v_awake := v_ripe_at > v_now OR NOT _pgq_wake(queue);
            RETURN;
        END IF;

        v_signature := _pgq_signature(queue, kind, args, dedup_key);
        IF on_duplicate = 'replace' THEN
            UPDATE pgq_waiting AS w
            SET args = pgq_enqueue.args, ripe_at = v_ripe_at, priority = v_priority
            WHERE w.signature = v_signature;
        ELSIF on_duplicate = 'soonest' THEN
            UPDATE pgq_waiting AS w
            SET ripe_at = v_ripe_at
            WHERE w.signature = v_signature
              AND w.ripe_at > v_ripe_at;
        END IF;

        -- The claim skips a locked row: the twin starts after this transaction has committed, and sees its writes.
        SELECT w.id INTO pgq_enqueue.id
        FROM pgq_waiting AS w
        WHERE w.signature = v_signature
        FOR KEY SHARE;

        IF FOUND THEN
            IF on_duplicate = 'error' THEN
                RAISE EXCEPTION 'job % is waiting already with this signature', id
                    USING ERRCODE = 'PGQ04',
                          HINT = 'Leave on_duplicate at keep to be answered with the id of that job instead.';
            END IF;
            created := false;
            v_awake := v_ripe_at > v_now OR on_duplicate = 'keep' OR NOT _pgq_wake(queue);
            RETURN;
        END IF;
    END LOOP;
END
$pgq_enqueue$;

COMMENT ON FUNCTION pgq_enqueue(text, jsonb, text, timestamptz, interval, integer, integer, interval, interval, boolean, text, text, jsonb) IS
    'Enqueue a job as part of your transaction; answers with its id and created = true. Where a job with the same '
    'queue, kind and dedup_key (or args, without a key) waits already, no second one is made: the answer is its id '
    'and created = false, and on_duplicate decides: keep it, replace its args, ripe_at and priority, give it the '
    'soonest ripe_at of the two, or raise error PGQ04. context is an object that its worker is handed beside args, such '
    'as a trace to continue; it has no part in what makes twins. NULL for ripe_at and delay means now, NULL for kind, '
    'args or queue is refused (22004), any other NULL means the default. Bad values raise 22023, 22008 or 54000, a queue '
    'that your role may not use 42501.';
-- What may stand in the array that pgq_enqueue_many takes.

CREATE FUNCTION _pgq_check_jobs(jobs jsonb) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_check_jobs$
DECLARE
    c_types CONSTANT jsonb := '{
        "kind": "string", "args": "any", "queue": "string", "ripe_at": "string", "delay": "string",
        "priority": "number", "max_retries": "number", "backoff": "string", "backoff_cap": "string",
        "dedup": "boolean", "dedup_key": "string", "on_duplicate": "string", "context": "object"
    }';
    v_n bigint;
    v_key text;
    v_type text;
BEGIN
    IF jobs IS NULL THEN
        RAISE EXCEPTION 'jobs is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Pass a JSON array of objects, empty if there is nothing to enqueue.';
    END IF;
    IF jsonb_typeof(jobs) <> 'array' THEN
        RAISE EXCEPTION 'jobs is not an array but of JSON type %', jsonb_typeof(jobs)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Pass a JSON array of objects, each with the arguments of pgq_enqueue as its keys.';
    END IF;

    SELECT j.n INTO v_n
    FROM jsonb_array_elements(jobs) WITH ORDINALITY AS j (item, n)
    WHERE jsonb_typeof(j.item) <> 'object'
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'job % of the array is not an object', v_n
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Each element must be an object such as {"kind": "mail", "args": {"to": "ann"}}.';
    END IF;

    SELECT j.n, e.key, c_types ->> e.key INTO v_n, v_key, v_type
    FROM jsonb_array_elements(jobs) WITH ORDINALITY AS j (item, n)
    CROSS JOIN LATERAL jsonb_each(j.item) AS e
    WHERE (c_types ->> e.key IN (jsonb_typeof(e.value), 'any') OR jsonb_typeof(e.value) = 'null' AND c_types ? e.key)
          IS NOT TRUE
    LIMIT 1;
    IF FOUND AND v_type IS NULL THEN
        RAISE EXCEPTION 'job % of the array has an unknown key "%"', v_n, left(v_key, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = format('Use only: %s.', (SELECT string_agg(k, ', ') FROM jsonb_object_keys(c_types) AS k));
    ELSIF FOUND THEN
        RAISE EXCEPTION 'job % of the array: % is no %', v_n, v_key, v_type
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give times and intervals as strings, priority and max_retries as numbers, dedup as true or false.';
    END IF;
END
$_pgq_check_jobs$;

COMMENT ON FUNCTION _pgq_check_jobs(jsonb) IS
    'Refuse (22004, 22023) what is not an array of objects with the known keys and JSON types.';


-- Stable and without a path of its own, so that it is inlined. The JSON null is an argument like any other, but for
-- all other keys it means the default, as if the key were absent.
CREATE FUNCTION _pgq_parse_jobs(jobs jsonb) RETURNS TABLE (
    n bigint,
    kind text,
    args jsonb,
    queue text,
    ripe_at timestamptz,
    delay interval,
    priority integer,
    max_retries integer,
    backoff interval,
    backoff_cap interval,
    dedup boolean,
    dedup_key text,
    on_duplicate text,
    context jsonb
)
    LANGUAGE sql
    STABLE
BEGIN ATOMIC
    SELECT j.n, r.kind, coalesce(j.item -> 'args', '{}'), coalesce(r.queue, 'default'), r.ripe_at, r.delay,
           coalesce(r.priority, 5), coalesce(r.max_retries, 10), coalesce(r.backoff, '1 minute'),
           coalesce(r.backoff_cap, '1 hour'), coalesce(r.dedup, true), r.dedup_key, coalesce(r.on_duplicate, 'keep'),
           r.context
    FROM jsonb_array_elements(jobs) WITH ORDINALITY AS j (item, n)
    CROSS JOIN LATERAL jsonb_to_record(j.item) AS r (
        kind text, queue text, ripe_at timestamptz, delay interval, priority integer, max_retries integer,
        backoff interval, backoff_cap interval, dedup boolean, dedup_key text, on_duplicate text, context jsonb);
END;

COMMENT ON FUNCTION _pgq_parse_jobs(jsonb) IS
    'The jobs of an array as rows, with the defaults of pgq_enqueue filled in; n counts from 1.';
-- What the duplicates in an array do to the jobs that wait already.
--
-- Twins are changed and locked in the order of their signatures: two calls wait for each other, but never in a circle. A
-- subquery that locks is never turned into a join, so each twin is looked up in the index of the signature, whatever the
-- statistics say about a table that is empty one minute and full the next.

-- Several duplicates of one job fold into one change: the last "replace" counts, and each "soonest" after it.
CREATE FUNCTION _pgq_change_twins(jobs pgq_waiting[], policies text[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_change_twins$
DECLARE
    v_change record;
BEGIN
    FOR v_change IN
        SELECT d.signature,
               bool_or(d.policy = 'replace') AS replaced,
               (array_agg(d.args) FILTER (WHERE d.n = d.last_replace))[1] AS args,
               min(d.priority) FILTER (WHERE d.n = d.last_replace) AS priority,
               min(d.ripe_at) FILTER (WHERE d.n >= coalesce(d.last_replace, 0)) AS ripe_at
        FROM (
            SELECT j.signature, j.args, j.ripe_at, j.priority, j.unnest AS policy, j.ordinality AS n,
                   max(j.ordinality) FILTER (WHERE j.unnest = 'replace') OVER (PARTITION BY j.signature) AS last_replace
            FROM ROWS FROM (unnest(jobs), unnest(policies)) WITH ORDINALITY AS j
            CROSS JOIN LATERAL (SELECT w.id FROM pgq_waiting AS w WHERE w.signature = j.signature OFFSET 0) AS twin
            WHERE j.unnest IN ('replace', 'soonest')
              AND j.id <> twin.id  -- what was made just now is as it should be
        ) AS d
        GROUP BY d.signature
        ORDER BY d.signature
    LOOP
        UPDATE pgq_waiting AS w
        SET args = CASE WHEN v_change.replaced THEN v_change.args ELSE w.args END,
            priority = CASE WHEN v_change.replaced THEN v_change.priority ELSE w.priority END,
            ripe_at = v_change.ripe_at
        WHERE w.signature = v_change.signature
          AND (v_change.replaced OR w.ripe_at > v_change.ripe_at);
    END LOOP;
END
$_pgq_change_twins$;

COMMENT ON FUNCTION _pgq_change_twins(pgq_waiting[], text[]) IS
    'Apply the duplicates that replace their twin, or want it sooner, to the jobs that are waiting.';


CREATE FUNCTION _pgq_meet_twins(jobs pgq_waiting[], policies text[]) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_meet_twins$
DECLARE
    v_ids bigint[];
    v_complete boolean;
BEGIN
    LOOP
        IF policies && '{replace,soonest}' THEN
            PERFORM _pgq_change_twins(jobs, policies);
        END IF;

        -- As in pgq_enqueue: the lock keeps each twin from starting before this transaction has committed.
        SELECT array_agg(coalesce(twin.id, j.id) ORDER BY j.ordinality),
               bool_and(twin.id IS NOT NULL OR NOT j.dedup)
        INTO v_ids, v_complete
        FROM (
            SELECT d.id, d.dedup, d.signature, d.ordinality
            FROM unnest(jobs) WITH ORDINALITY AS d
            ORDER BY d.signature
        ) AS j
        LEFT JOIN LATERAL (
            SELECT w.id FROM pgq_waiting AS w WHERE w.signature = j.signature FOR KEY SHARE
        ) AS twin ON true;
        IF v_complete THEN
            RETURN v_ids;
        END IF;

        -- A twin was claimed before it could be locked: then its duplicate is a job of its own.
        INSERT INTO pgq_waiting (
            id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
            enqueued_at, errors, context
        )
        SELECT j.id, j.queue, j.kind, j.args, j.priority, j.ripe_at, j.attempt, j.max_retries, j.backoff, j.backoff_cap,
               j.dedup, j.dedup_key, j.enqueued_at, j.errors, j.context
        FROM unnest(jobs) AS j
        WHERE j.dedup
        ORDER BY j.signature, j.id
        ON CONFLICT (signature) DO NOTHING;
    END LOOP;
END
$_pgq_meet_twins$;

COMMENT ON FUNCTION _pgq_meet_twins(pgq_waiting[], text[]) IS
    'The ids of the jobs that now wait for these: their own where they were inserted, otherwise those of their twins, '
    'changed as their policies say and locked until the end of the transaction.';
-- Enqueue many jobs with a handful of statements, as if pgq_enqueue were called for each in turn.
--
-- One statement where no job has a twin. Rows are inserted in the order of a hash of what makes them twins: two calls with
-- overlapping jobs wait for each other, but not in a circle.

CREATE FUNCTION pgq_enqueue_many(jobs jsonb) RETURNS TABLE (n bigint, id bigint, created boolean)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_enqueue_many$
#variable_conflict use_column
DECLARE
    v_now timestamptz := pgq_now();
    v_limit text[] := _pgq_limit('producer');
    v_n bigint;
    v_problems text[];
    v_queue text;
    v_queues text[];
    v_ids bigint[];
    v_inserted bigint;
    v_jobs pgq_waiting[];
    v_policies text[];
    v_answers bigint[];
BEGIN
    PERFORM _pgq_check_jobs(jobs);
    IF v_limit IS NOT NULL THEN
        SELECT coalesce(j.item ->> 'queue', 'default') INTO v_queue
        FROM jsonb_array_elements(jobs) AS j (item)
        WHERE coalesce(j.item ->> 'queue', 'default') <> ALL (v_limit)
        LIMIT 1;
        IF FOUND THEN
            PERFORM _pgq_refuse(v_queue, 'producer');
        END IF;
    END IF;

    WITH job AS MATERIALIZED (
        SELECT nextval('pgq_job_id') AS id, j.*,
               _pgq_problem(j.kind, j.args, j.queue, j.ripe_at, j.delay, j.priority, j.max_retries, j.backoff,
                            j.backoff_cap, j.dedup_key, j.on_duplicate, j.context, v_now) AS problem
        FROM _pgq_parse_jobs(jobs) AS j
    ), inserted AS (
        INSERT INTO pgq_waiting (
            id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
            enqueued_at, errors, context
        )
        SELECT j.id, j.queue, j.kind, j.args, j.priority, coalesce(j.ripe_at, v_now + j.delay, v_now), 0, j.max_retries,
               j.backoff, j.backoff_cap, j.dedup, j.dedup_key, v_now, '[]', j.context
        FROM job AS j
        WHERE NOT EXISTS (SELECT FROM job AS other WHERE other.problem IS NOT NULL)
        ORDER BY hashtextextended(coalesce(j.dedup_key, j.args::text), 0), j.kind, j.queue, j.id
        ON CONFLICT (signature) DO NOTHING
        RETURNING 1
    )
    SELECT min(j.n) FILTER (WHERE j.problem IS NOT NULL),
           array_agg(j.problem ORDER BY j.n) FILTER (WHERE j.problem IS NOT NULL),
           array_agg(j.id ORDER BY j.n),
           (SELECT count(*) FROM inserted),
           array_agg(DISTINCT j.queue) FILTER (WHERE (j.ripe_at > v_now OR j.delay > '0') IS NOT TRUE)
    INTO v_n, v_problems, v_ids, v_inserted, v_queues
    FROM job AS j;

    IF v_n IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = v_problems[1][1],
            MESSAGE = format('job %s of the array: %s', v_n, v_problems[1][2]),
            HINT = v_problems[1][3];
    END IF;
    FOREACH v_queue IN ARRAY coalesce(v_queues, '{}') LOOP
        PERFORM _pgq_wake(v_queue);
    END LOOP;
    IF v_inserted = coalesce(cardinality(v_ids), 0) THEN
        RETURN QUERY SELECT j.n, j.id, true FROM unnest(v_ids) WITH ORDINALITY AS j (id, n);
        RETURN;
    END IF;

    SELECT array_agg(ROW(
               v_ids[j.n], j.queue, j.kind, j.args, j.priority, coalesce(j.ripe_at, v_now + j.delay, v_now), 0,
               j.max_retries, j.backoff, j.backoff_cap, j.dedup, j.dedup_key, v_now, '[]', j.context,
               CASE WHEN j.dedup THEN _pgq_signature(j.queue, j.kind, j.args, j.dedup_key) END
           )::pgq_waiting ORDER BY j.n),
           array_agg(j.on_duplicate ORDER BY j.n)
    INTO v_jobs, v_policies
    FROM _pgq_parse_jobs(jobs) AS j;
    v_answers := _pgq_meet_twins(v_jobs, v_policies);

    SELECT j.n INTO v_n
    FROM ROWS FROM (unnest(v_ids), unnest(v_policies), unnest(v_answers)) WITH ORDINALITY AS j (id, policy, answer, n)
    WHERE j.policy = 'error' AND j.answer <> j.id
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'job % of the array: job % is waiting already with this signature', v_n, v_answers[v_n]
            USING ERRCODE = 'PGQ04',
                  HINT = 'Leave on_duplicate at keep to be answered with the id of that job instead.';
    END IF;

    RETURN QUERY
    SELECT j.n, j.answer, j.answer = j.id
    FROM ROWS FROM (unnest(v_ids), unnest(v_answers)) WITH ORDINALITY AS j (id, answer, n);
END
$pgq_enqueue_many$;

COMMENT ON FUNCTION pgq_enqueue_many(jsonb) IS
    'Enqueue an array of objects whose keys are the arguments of pgq_enqueue, of any kinds and queues, as part of your '
    'transaction: all or none. Answers a row for each, in order: n (from 1), id, created. JSON null means the default, '
    'except for args. NULL for jobs is refused (22004), bad values as in pgq_enqueue, with the number of the job; a queue that '
    'your role may not use raises 42501, and what is no time, interval or integer at all raises 22007, 22008, 22003 or 22P02.';
-- How a claim gets past the entries of jobs that are gone.
--
-- The claim index keeps an entry of each claimed job until vacuum may remove it, and a snapshot that is held anywhere
-- forbids that. A claim that starts at the left end of its lanes walks over all of them. So once that walk has become
-- long, a session remembers its head in each lane: where the live entries begin. A head moves in two steps, to where the
-- move before had arrived, so that a job that commits a little late is still to the right of it.
--
-- What lies to the left of the head all the same (a claim that rolled back, a commit that came very late, a job put
-- back at its old place) is found by a scan from the left end. One is made at each claim as long as the walk is short,
-- and else again after twenty times as long as the last one took. Heads are kept in a setting of the session: that
-- writes nothing, and a claim that rolls back takes its moves back. Anybody may set it, so a lie in it must hurt the
-- liar alone.

-- A hundred entries in vain cost about a tenth of a claim. Twelve is what it takes to find the place of each lane.
CREATE FUNCTION _pgq_is_long(steps bigint, lanes integer) RETURNS boolean
    LANGUAGE sql
    IMMUTABLE
    RETURN coalesce(steps > 100 + 12 * lanes, true);

COMMENT ON FUNCTION _pgq_is_long(bigint, integer) IS
    'Whether a scan of so many lanes that took so many steps in vain is worth avoiding; NULL counts as long.';


CREATE FUNCTION _pgq_pause(cost interval) RETURNS interval
    LANGUAGE sql
    IMMUTABLE
    RETURN least(20 * cost, interval '5 minutes');

COMMENT ON FUNCTION _pgq_pause(interval) IS
    'How long to wait with the next scan after a long one: they may take a twentieth of the time.';


-- Entries that are known to be dead to all are not counted, but the pages full of them are.
CREATE FUNCTION _pgq_steps(index regclass) RETURNS bigint
    LANGUAGE sql
    VOLATILE
    RETURN CASE
        WHEN current_setting('track_counts')::boolean THEN
            pg_stat_get_xact_tuples_returned(index) + 2 * pg_stat_get_xact_blocks_fetched(index)
    END;

COMMENT ON FUNCTION _pgq_steps(regclass) IS
    'A counter of what this session reads from an index, a page as two entries; NULL where the server does not count.';


CREATE FUNCTION _pgq_microseconds(at timestamptz) RETURNS bigint
    LANGUAGE sql
    STABLE
    RETURN (extract(epoch FROM at) * 1000000)::bigint;

COMMENT ON FUNCTION _pgq_microseconds(timestamptz) IS
    'A time as a number: microseconds since 1970.';


-- The oid keeps apart what is installed in several schemas; the digest makes a name of whatever the queue is called.
CREATE FUNCTION _pgq_head_setting(queue text) RETURNS text
    LANGUAGE sql
    STABLE
    RETURN 'pgq.head_' || 'pgq_head'::regclass::oid || '_' || md5(queue);

COMMENT ON FUNCTION _pgq_head_setting(text) IS
    'The setting in which a session keeps its heads in the lanes of a queue.';


CREATE FUNCTION _pgq_keep_head(head pgq_head) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_keep_head$
BEGIN
    PERFORM set_config(
        _pgq_head_setting(head.queue),
        array_to_string(_pgq_microseconds(head.due) || head.here || head.next, ' ', '-1'),
        false);
END
$_pgq_keep_head$;

COMMENT ON FUNCTION _pgq_keep_head(pgq_head) IS
    'Remember the heads of a queue in this session.';


-- One from the future is the work of a clock that was set back since.
CREATE FUNCTION _pgq_shared_head(queue text, at timestamptz) RETURNS pgq_head
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_shared_head$
DECLARE
    v_head pgq_head;
BEGIN
    SELECT h.* INTO v_head
    FROM pgq_head AS h
    WHERE h.queue = _pgq_shared_head.queue
      AND h.due < at + interval '10 minutes'
    ORDER BY h.due DESC
    LIMIT 1;
    RETURN v_head;
END
$_pgq_shared_head$;

COMMENT ON FUNCTION _pgq_shared_head(text, timestamptz) IS
    'What some session has told others about a queue, the newest of it; NULLs where there is nothing.';


-- Where nothing is known, "here" is empty, and the queue is to be scanned from the left end; also once it is due.
CREATE FUNCTION _pgq_recall_head(queue text, at timestamptz) RETURNS pgq_head
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_recall_head$
DECLARE
    v_setting text := current_setting(_pgq_head_setting(queue), true);
    v_wait bigint;
    v_numbers bigint[];
    v_head pgq_head := ROW(queue, at, '0', '{}', '{}');
    v_shared pgq_head;
BEGIN
    IF v_setting ~ '^[0-9]+( ([0-9]+|-1))*$' AND v_setting !~ '[0-9]{19}' THEN
        v_numbers := array_replace(string_to_array(v_setting, ' ')::bigint[], -1, NULL);
        IF cardinality(v_numbers) = 41 THEN
            v_head.here := v_numbers[2:21];
            v_head.next := v_numbers[22:41];
        END IF;
        v_wait := v_numbers[1] - _pgq_microseconds(at);
        IF v_wait BETWEEN 1 AND 600000000 THEN
            v_head.due := at + v_wait * interval '1 microsecond';
            RETURN v_head;
        END IF;
    END IF;

    v_shared := _pgq_shared_head(queue, at);
    IF v_shared.due IS NOT NULL THEN
        IF v_head.here = '{}' THEN
            v_head.here := v_shared.here;
            v_head.next := v_shared.next;
        END IF;
        -- Another session has scanned. Next time it is the turn of whoever draws the shortest wait.
        v_head.due := v_shared.due + random() * v_shared.pause;
        PERFORM _pgq_keep_head(v_head);
        -- A new session, perhaps here for one claim only, leaves the scan to others for longer.
        IF v_numbers IS NULL AND v_shared.due + 9 * v_shared.pause > at THEN
            v_head.due := greatest(v_head.due, at + interval '1 microsecond');
        END IF;
    END IF;
    RETURN v_head;
END
$_pgq_recall_head$;

COMMENT ON FUNCTION _pgq_recall_head(text, timestamptz) IS
    'What this session knows about where the live jobs of a queue begin, or else what others know.';
-- What a claim learns about where the live jobs begin.

-- Lanes are walked by priority, then in the order of the queues: those before the lane of the last row to their end, and
-- if there was room for more rows, those after it too. The end counts as a tenth of a second ago, for the sake of jobs
-- that are enqueued and not yet committed.
CREATE FUNCTION _pgq_reached(heads pgq_head[], n integer, rows tid[], filled boolean, at timestamptz) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_reached$
DECLARE
    v_priority integer := 10;
    v_n integer := 0;
BEGIN
    IF filled THEN
        SELECT w.priority, h.ordinality INTO v_priority, v_n
        FROM (SELECT * FROM pgq_waiting WHERE ctid = rows[cardinality(rows)] OFFSET 0) AS w
        JOIN unnest(heads) WITH ORDINALITY AS h ON h.queue = w.queue;
    END IF;
    RETURN (
        SELECT array_agg(number.part ORDER BY p.priority, number.k)
        FROM generate_series(0, 9) AS p (priority)
        LEFT JOIN (
            -- Fenced: beside a condition on queue, an index that begins with it can look cheaper than these rows do.
            SELECT w.priority, max(ARRAY[_pgq_microseconds(w.ripe_at), w.id]) AS last
            FROM (SELECT * FROM pgq_waiting WHERE ctid = ANY (rows) OFFSET 0) AS w
            WHERE w.queue = heads[_pgq_reached.n].queue
            GROUP BY w.priority
        ) AS taken USING (priority)
        CROSS JOIN LATERAL unnest(CASE
            WHEN taken.last IS NOT NULL THEN taken.last
            WHEN (p.priority, _pgq_reached.n) < (v_priority, v_n) THEN ARRAY[_pgq_microseconds(at) - 100000, 0]
            ELSE ARRAY[NULL, NULL]::bigint[]
        END) WITH ORDINALITY AS number (part, k)
    );
END
$_pgq_reached$;

COMMENT ON FUNCTION _pgq_reached(pgq_head[], integer, tid[], boolean, timestamptz) IS
    'How far a claim that found these rows has walked in the lanes of its n-th queue, as in pgq_head; NULL: not at all.';


-- Only what a new session would notice. And in a stricter isolation the removal of old rows could fail.
CREATE FUNCTION _pgq_share_head(head pgq_head) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_share_head$
DECLARE
    v_old pgq_head;
BEGIN
    IF head.pause < interval '20 milliseconds' OR current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN;
    END IF;
    v_old := _pgq_shared_head(head.queue, head.due);
    IF head.due - head.pause < v_old.due - v_old.pause + interval '1 second' THEN
        RETURN;
    END IF;

    FOR v_i IN 1..cardinality(head.here) LOOP
        head.here[v_i] := coalesce(head.here[v_i], v_old.here[v_i]);
    END LOOP;
    head.next := head.here;
    DELETE FROM pgq_head AS h
    WHERE h.ctid = ANY (ARRAY(SELECT o.ctid FROM pgq_head AS o WHERE o.queue = head.queue FOR UPDATE SKIP LOCKED));
    INSERT INTO pgq_head VALUES (head.*);
END
$_pgq_share_head$;

COMMENT ON FUNCTION _pgq_share_head(pgq_head) IS
    'Tell other sessions where the live jobs of a queue begin, if the scan took a millisecond or more; at most once a '
    'second, and without waiting for anybody.';


CREATE FUNCTION _pgq_move_heads(
    heads pgq_head[],
    rows tid[],
    filled boolean,
    steps bigint,
    at timestamptz,
    begun_at timestamptz
) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_move_heads$
DECLARE
    v_long boolean := _pgq_is_long(steps, 10 * cardinality(heads));
    v_done_at timestamptz := clock_timestamp();
    v_pause interval := _pgq_pause(v_done_at - begun_at);
    v_head pgq_head;
    v_from_start boolean;
    v_reached bigint[];
    v_at bigint[];
BEGIN
    FOR v_n IN 1..cardinality(heads) LOOP
        v_head := heads[v_n];
        v_from_start := v_head.due <= begun_at OR v_head.here = '{}';
        IF v_long THEN
            v_reached := _pgq_reached(heads, v_n, rows, filled, at);
            IF v_head.here = '{}' THEN
                v_head.here := array_fill(NULL::bigint, '{20}');
                v_head.next := v_head.here;
            END IF;
            FOR v_i IN 1..19 BY 2 LOOP
                v_at := v_reached[v_i:v_i + 1];
                CONTINUE WHEN v_at[1] IS NULL;
                -- Far behind, because others have claimed meanwhile, one step must do.
                v_head.here[v_i:v_i + 1] := least(v_at, CASE
                    WHEN v_from_start THEN v_head.here[v_i:v_i + 1]
                    WHEN steps > 2000 THEN v_at
                    ELSE v_head.next[v_i:v_i + 1]
                END);
                v_head.next[v_i:v_i + 1] := v_at;
            END LOOP;
            IF v_from_start THEN
                v_head.due := v_done_at + v_pause;
                PERFORM _pgq_share_head(ROW(v_head.queue, v_head.due, v_pause, v_reached, '{}'));
            END IF;
            PERFORM _pgq_keep_head(v_head);
        ELSIF v_head.due <= begun_at THEN
            -- All is well. No need to ask for what others know before ten seconds have passed.
            PERFORM _pgq_keep_head(ROW(v_head.queue, begun_at + interval '10 seconds', v_pause, '{}', '{}'));
        END IF;
    END LOOP;
END
$_pgq_move_heads$;

COMMENT ON FUNCTION _pgq_move_heads(pgq_head[], tid[], boolean, bigint, timestamptz, timestamptz) IS
    'After a claim that found these rows and took so many steps in vain: remember where to begin the next time.';
-- What pgq_claim takes for its arguments, and the other calls that name the queues of a worker.

CREATE FUNCTION _pgq_lease_end(at timestamptz, lease interval) RETURNS timestamptz
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_lease_end$
BEGIN
    IF lease IS NULL THEN
        RAISE EXCEPTION 'lease is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Give the interval after which the job is taken from a worker that does not answer.';
    END IF;
    -- Months and days of opposite signs can make what is small when compared, but large or negative when added.
    IF lease NOT BETWEEN interval '0' AND interval '1 year' OR at + lease <= at OR at + lease > at + interval '1 year' THEN
        RAISE EXCEPTION 'lease % is out of range', lease
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give an interval of more than 0 and at most 1 year.';
    END IF;
    RETURN at + lease;
END
$_pgq_lease_end$;

COMMENT ON FUNCTION _pgq_lease_end(timestamptz, interval) IS
    'When a lease that begins now ends; refuses one that is null (22004) or out of range (22023).';


CREATE FUNCTION _pgq_check_claim(queues text[], max_jobs integer, worker text) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_check_claim$
DECLARE
    v_limit text[] := _pgq_limit('worker');
BEGIN
    IF queues IS NULL OR max_jobs IS NULL OR EXISTS (SELECT FROM unnest(queues) AS q WHERE q IS NULL) THEN
        RAISE EXCEPTION '% is null', CASE WHEN max_jobs IS NULL THEN 'max_jobs' ELSE 'queues, or one of them,' END
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Leave the argument out for the default: one job of the queue "default".';
    END IF;
    IF cardinality(queues) = 0 THEN
        RAISE EXCEPTION 'queues is empty'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Name at least one queue.';
    END IF;
    IF max_jobs NOT BETWEEN 0 AND 10000 THEN
        RAISE EXCEPTION 'max_jobs % is out of range', max_jobs
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give a number from 0 to 10000.';
    END IF;
    IF octet_length(worker) > 200 THEN
        RAISE EXCEPTION 'worker takes % bytes, more than 200', octet_length(worker)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give the worker a shorter name.';
    END IF;
    IF NOT queues <@ v_limit THEN
        PERFORM _pgq_refuse((SELECT q FROM unnest(queues) AS q WHERE q <> ALL (v_limit) LIMIT 1), 'worker');
    END IF;
END
$_pgq_check_claim$;

COMMENT ON FUNCTION _pgq_check_claim(text[], integer, text) IS
    'Refuse arguments of pgq_claim that are null (22004) or out of range (22023), and queues that the caller may not use '
    '(42501).';
-- Claim ripe jobs: out of pgq_waiting, into pgq_running, under a fresh token and a lease.

CREATE FUNCTION pgq_claim(
    queues text[] DEFAULT '{default}',
    max_jobs integer DEFAULT 1,
    lease interval DEFAULT '5 minutes',
    worker text DEFAULT NULL
) RETURNS TABLE (
    id bigint,
    token bigint,
    queue text,
    kind text,
    args jsonb,
    attempt integer,
    max_retries integer,
    priority integer,
    ripe_at timestamptz,
    enqueued_at timestamptz,
    lease_until timestamptz,
    context jsonb
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    -- Leave the planner one way, whatever the statistics say: the claim index in its own order, then TID scans. What
    -- is off counts as so dear that every plan would be compiled, for longer than it runs: no JIT.
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_claim$
#variable_conflict use_column
DECLARE
    v_now timestamptz := pgq_now();
    v_lease_until timestamptz := _pgq_lease_end(v_now, lease);
    v_token bigint := _pgq_microseconds(v_now) * 1024;
    v_queue text;
    v_names text[] := '{}';
    v_heads pgq_head[];
    v_begun_at timestamptz;
    v_steps bigint;
    v_rows tid[];
BEGIN
    PERFORM _pgq_check_claim(queues, max_jobs, worker);

    PERFORM _pgq_expire_sometimes(v_now);
    IF max_jobs = 0 THEN
        RETURN;
    END IF;

    -- A lane that is named twice would offer the same rows twice: SKIP LOCKED does not skip this transaction's own locks.
    v_begun_at := clock_timestamp();
    FOREACH v_queue IN ARRAY queues LOOP
        IF v_queue <> ALL (v_names) THEN
            v_names := v_names || v_queue;
            v_heads := v_heads || _pgq_recall_head(v_queue, v_begun_at);
        END IF;
    END LOOP;
    v_steps := _pgq_steps('pgq_waiting_claim');

    -- Lane by lane, lazily: nothing is locked but what is returned.
    v_rows := ARRAY(
        SELECT ripe.ctid
        FROM (
            SELECT h.queue, p.priority, CASE WHEN h.due > v_begun_at THEN h.here[2 * p.priority + 1] END AS ripe_at,
                   h.here[2 * p.priority + 2] AS id
            FROM generate_series(0, 9) AS p (priority)
            CROSS JOIN unnest(v_heads) WITH ORDINALITY AS h (queue, due, pause, here, next, n)
            ORDER BY p.priority, h.n
        ) AS lane
        CROSS JOIN LATERAL (
            SELECT w.ctid
            FROM pgq_waiting AS w
            WHERE w.queue = lane.queue
              AND w.priority = lane.priority
              AND (w.ripe_at, w.id) > (
                  coalesce(timestamptz 'epoch' + lane.ripe_at * interval '1 microsecond', '-infinity'), coalesce(lane.id, 0))
              AND w.ripe_at <= v_now
            ORDER BY w.ripe_at, w.id
            LIMIT max_jobs
            FOR UPDATE SKIP LOCKED
        ) AS ripe
        LIMIT max_jobs
    );
    PERFORM _pgq_move_heads(
        v_heads, v_rows, cardinality(v_rows) = max_jobs,
        _pgq_steps('pgq_waiting_claim') - v_steps - cardinality(v_rows), v_now, v_begun_at);
    IF v_rows = '{}' THEN
        RETURN;
    END IF;

    -- A statement of its own, for a snapshot of its own: a row that was changed just before it was locked has a new
    -- ctid, which the snapshot of the statement above does not see.
    RETURN QUERY
    WITH taken AS (
        DELETE FROM pgq_waiting AS w
        WHERE w.ctid = ANY (v_rows)
        RETURNING w.*
    )
    INSERT INTO pgq_running AS r (
        id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
        enqueued_at, errors, context, token, lease_until, worker, claimed_at
    )
    SELECT t.id, t.queue, t.kind, t.args, t.priority, t.ripe_at, t.attempt + 1, t.max_retries, t.backoff, t.backoff_cap,
           t.dedup, t.dedup_key, t.enqueued_at, t.errors, t.context, v_token + nextval('pgq_token') % 1024, v_lease_until,
           pgq_claim.worker, v_now
    FROM taken AS t
    ORDER BY t.priority, t.ripe_at, t.id
    RETURNING r.id, r.token, r.queue, r.kind, r.args, r.attempt, r.max_retries, r.priority::integer, r.ripe_at,
              r.enqueued_at, r.lease_until, r.context;
END
$pgq_claim$;

COMMENT ON FUNCTION pgq_claim(text[], integer, interval, text) IS
    'Take up to max_jobs ripe jobs of these queues, lowest priority number first, then by ripe_at; within one priority '
    'the queues are served in the order given. Each row carries the token that every further call about the job wants '
    'back; the attempt is counted. When lease runs out before the job is completed, failed, released, snoozed or '
    'extended, the job is taken back. Expired leases of any queue are settled first, once a second. No row when nothing '
    'is ripe, or only what lies behind many jobs that are gone and was not found yet. NULL is refused (22004) but for '
    'worker, a name to be shown; bad values raise 22023, a queue that your role may not use 42501.';
-- What happens to a job whose worker let the lease run out.

-- Called from within claims, so bounded in number and in waiting. 50 keeps the subtransactions, one a job, below the
-- 64 that a backend can show to others without a look-up on disk.
CREATE FUNCTION _pgq_expire(at timestamptz) RETURNS integer
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
    SET lock_timeout = '100ms'
AS $_pgq_expire$
DECLARE
    v_job pgq_running;
    v_count integer := 0;
BEGIN
    FOR v_job IN
        SELECT r.*
        FROM pgq_running AS r
        WHERE r.lease_until < at
        ORDER BY r.lease_until
        LIMIT 50
        FOR UPDATE SKIP LOCKED
    LOOP
        v_count := v_count + 1;
        BEGIN
            DELETE FROM pgq_running AS r WHERE r.id = v_job.id;
            -- A crashed worker's jobs do not wait; one that loses worker after worker slows down.
            PERFORM _pgq_retry_or_bury(
                v_job,
                at,
                CASE WHEN v_job.lease_until > v_job.claimed_at THEN 'the lease ran out' ELSE 'the worker is gone' END,
                CASE WHEN v_job.attempt = 1 THEN at
                     ELSE at + pgq_backoff(v_job.attempt - 1, v_job.backoff, v_job.backoff_cap)
                END
            );
        EXCEPTION WHEN lock_not_available THEN
            -- A producer's open transaction holds a twin: whether the two merge is not known yet. Out of the way of
            -- the other expired jobs until it is.
            UPDATE pgq_running AS r SET lease_until = at + interval '1 second' WHERE r.id = v_job.id;
        END;
    END LOOP;
    RETURN v_count;
END
$_pgq_expire$;

COMMENT ON FUNCTION _pgq_expire(timestamptz) IS
    'Return or bury up to 50 jobs whose lease ran out before the given time; answers how many there were.';


-- The entries of jobs that are gone pile up in the index of the leases as in that of the claim, so the search is
-- rationed in the same way: once a second in each session, as if it took a twentieth of that, but when the walk is long
-- once in all of them together.
CREATE FUNCTION _pgq_expire_sometimes(at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_expire_sometimes$
DECLARE
    v_is_new boolean := coalesce(current_setting(_pgq_head_setting(''), true), '') = '';
    v_head pgq_head := _pgq_recall_head('', at);
    v_begun_at timestamptz;
    v_steps bigint;
    v_count integer;
BEGIN
    IF v_head.due > at THEN
        RETURN;
    END IF;

    v_begun_at := clock_timestamp();
    v_steps := _pgq_steps('pgq_running_lease');
    -- After a failover all workers look gone to the first session that comes, until they come, too.
    IF NOT v_is_new THEN
        PERFORM _pgq_sweep(at);
    END IF;
    v_count := _pgq_expire(at);
    v_head.pause := _pgq_pause(greatest(clock_timestamp() - v_begun_at, interval '50 milliseconds'));
    v_head.due := at + v_head.pause;
    -- As long as each search finds its fill, it is worth what it costs.
    IF v_count < 50 THEN
        IF _pgq_is_long(_pgq_steps('pgq_running_lease') - v_steps - v_count, 1) THEN
            PERFORM _pgq_share_head(v_head);
        END IF;
        PERFORM _pgq_keep_head(v_head);
    END IF;
END
$_pgq_expire_sometimes$;

COMMENT ON FUNCTION _pgq_expire_sometimes(timestamptz) IS
    'Call _pgq_expire if that is due in this session, and unless it is for the first time, _pgq_sweep before it.';
-- A worker's presence: what makes the jobs of a killed one ripe at once, and not only when their leases end.

CREATE VIEW _pgq_presence AS
SELECT l.objid::integer AS number, l.pid
FROM pg_locks AS l
WHERE l.locktype = 'advisory'
  AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
  AND l.classid = 'pgq_worker'::regclass
  AND l.objsubid = 2
  AND l.mode = 'ExclusiveLock'
  AND l.granted;

COMMENT ON VIEW _pgq_presence IS
    'The numbers of the workers that are there, each with the process of the server that its session has.';


CREATE FUNCTION pgq_register(
    name text,
    queues text[] DEFAULT '{default}',
    host text DEFAULT NULL,
    pid integer DEFAULT NULL
) RETURNS void
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_register$
DECLARE
    c_class CONSTANT integer := 'pgq_worker'::regclass::oid::integer;
    v_limit text[] := _pgq_limit('worker');
    v_number integer;
    v_mine boolean;
BEGIN
    IF name IS NULL THEN
        RAISE EXCEPTION 'name is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Give a name that no other process has or will have, and claim under it.';
    END IF;
    IF octet_length(name) NOT BETWEEN 1 AND 200 OR octet_length(host) > 200 THEN
        RAISE EXCEPTION 'name or host takes no byte, or more than 200'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use 1 to 200 bytes, such as the host, the process id and something random.';
    END IF;
    PERFORM _pgq_check_claim(queues, 0, NULL);

    -- Who takes a name over keeps the jobs that were claimed under it, so it must be a name of his own.
    INSERT INTO pgq_worker AS w (name, queues, host, pid, registered_at, reach)
    VALUES (name, queues, host, pid, pgq_now(), v_limit)
    ON CONFLICT ON CONSTRAINT pgq_worker_pkey DO UPDATE
    SET queues = excluded.queues, host = excluded.host, pid = excluded.pid, gone_at = NULL, reach = excluded.reach
    WHERE v_limit IS NULL OR w.reach <@ v_limit
    RETURNING w.number INTO v_number;

    -- Session locks are counted; a second one would outlive pgq_unregister.
    v_mine := EXISTS (SELECT FROM _pgq_presence AS p WHERE p.number = v_number AND p.pid = pg_backend_pid());
    -- Who looks after the workers has it for a moment.
    FOR v_try IN 1..20 LOOP
        EXIT WHEN v_mine OR v_number IS NULL;
        v_mine := pg_try_advisory_lock(c_class, v_number);
        IF NOT v_mine THEN
            PERFORM pg_sleep(0.005);
        END IF;
    END LOOP;
    IF NOT v_mine THEN
        RAISE EXCEPTION 'worker "%" is registered by another session', name
            USING ERRCODE = 'PGQ03',
                  HINT = 'Use a name of your own; after a lost connection try again when the server has noticed it, too.';
    END IF;
END
$pgq_register$;

COMMENT ON FUNCTION pgq_register(text, text[], text, integer) IS
    'Say that a worker is there for as long as this session, which should do nothing that takes long. When the session '
    'ends without pgq_unregister, leases on jobs that were claimed under name (the argument worker of pgq_claim) end '
    'within two seconds or so, as soon as anybody claims. The name must be of this process alone: who registers it again '
    'in a new session has come back, and keeps its jobs. host and pid are shown in pgq_workers. Raises PGQ03 while '
    'another session has the name, or a role with other queues had it; NULL for name or queues is refused (22004), bad '
    'values raise 22023, a queue that your role may not use 42501.';


CREATE FUNCTION pgq_unregister(name text) RETURNS boolean
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_unregister$
DECLARE
    v_number integer;
BEGIN
    DELETE FROM pgq_worker AS w
    WHERE w.name = pgq_unregister.name
      AND EXISTS (SELECT FROM _pgq_presence AS p WHERE p.number = w.number AND p.pid = pg_backend_pid())
    RETURNING w.number INTO v_number;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    RETURN pg_advisory_unlock('pgq_worker'::regclass::oid::integer, v_number);
END
$pgq_unregister$;

COMMENT ON FUNCTION pgq_unregister(text) IS
    'Say that a worker leaves; jobs that it still has are left to their leases. Answers whether this session had '
    'registered it; false for NULL.';


-- The order of the ids is that of most claims; whoever waits for a twin that is not committed gives up where the others
-- do, by the lock_timeout of his session.
CREATE FUNCTION pgq_disown(name text, tokens bigint[]) RETURNS bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_disown$
DECLARE
    v_limit text[] := _pgq_limit('worker');
    v_job pgq_running;
    v_count bigint := 0;
BEGIN
    IF tokens IS NULL THEN
        RAISE EXCEPTION 'tokens is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Pass the tokens of all the jobs that the worker knows of, an empty array if there are none.';
    END IF;
    IF NOT EXISTS (
        SELECT FROM pgq_worker AS w JOIN _pgq_presence AS p USING (number)
        WHERE w.name = pgq_disown.name AND p.pid = pg_backend_pid()
    ) THEN
        RAISE EXCEPTION 'worker "%" is not registered by this session', name
            USING ERRCODE = 'PGQ03',
                  HINT = 'Call pgq_register first, in the same session.';
    END IF;

    FOR v_job IN
        SELECT r.*
        FROM pgq_running AS r
        WHERE r.worker = pgq_disown.name
          AND r.token <> ALL (tokens)
          AND (v_limit IS NULL OR r.queue = ANY (v_limit))
        ORDER BY r.id
        FOR UPDATE SKIP LOCKED
    LOOP
        DELETE FROM pgq_running AS r WHERE r.id = v_job.id;
        PERFORM _pgq_put_back(v_job, v_job.ripe_at, v_job.attempt - 1, v_job.errors);
        v_count := v_count + 1;
    END LOOP;
    RETURN v_count;
END
$pgq_disown$;

COMMENT ON FUNCTION pgq_disown(text, bigint[]) IS
    'Give back the jobs that were claimed under a name and have none of these tokens, as pgq_release does; answers how '
    'many. For a worker whose connection was lost before the answer to a claim, and only while no claim under the name is '
    'under way. Raises PGQ03 unless this session has registered the name, also for NULL; NULL for tokens is refused '
    '(22004).';
-- What happens to the jobs of a worker that is gone.

-- Called from within claims, so it waits for nobody. Where a worker is gone its lock can be had; to ask for that is cheap,
-- and only then the list of all locks is looked at, for this session may be the worker's own.
--
-- A worker is kept for ten seconds after it was found gone, for the sake of a claim that commits after its worker died,
-- and of jobs that are locked by a statement of its which goes on. And right after a start of the server nobody is there
-- yet: workers have five seconds to come back.
CREATE FUNCTION _pgq_sweep(at timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_sweep$
DECLARE
    c_class CONSTANT integer := 'pgq_worker'::regclass::oid::integer;
    v_worker pgq_worker;
BEGIN
    IF clock_timestamp() < pg_postmaster_start_time() + interval '5 seconds' THEN
        RETURN;
    END IF;

    FOR v_worker IN
        SELECT w.*
        FROM pgq_worker AS w
        WHERE CASE WHEN pg_try_advisory_lock_shared(c_class, w.number) THEN
                  pg_advisory_unlock_shared(c_class, w.number) AND NOT EXISTS (SELECT FROM _pgq_presence AS p WHERE p.number = w.number)
              END
        FOR UPDATE SKIP LOCKED
    LOOP
        -- Such a lease is told from one that ran out by its length. A job that somebody has locked is in good hands.
        UPDATE pgq_running AS r
        SET lease_until = r.claimed_at
        WHERE r.ctid = ANY (ARRAY(
            SELECT o.ctid
            FROM pgq_running AS o
            WHERE o.worker = v_worker.name
              AND (v_worker.reach IS NULL OR o.queue = ANY (v_worker.reach))
              AND o.lease_until > o.claimed_at
            FOR UPDATE SKIP LOCKED));

        IF v_worker.gone_at IS NULL THEN
            UPDATE pgq_worker AS w SET gone_at = at WHERE w.number = v_worker.number;
        ELSIF v_worker.gone_at < at - interval '10 seconds'
              AND NOT EXISTS (SELECT FROM pgq_running AS r WHERE r.worker = v_worker.name) THEN
            DELETE FROM pgq_worker AS w WHERE w.number = v_worker.number;
        END IF;
    END LOOP;
END
$_pgq_sweep$;

COMMENT ON FUNCTION _pgq_sweep(timestamptz) IS
    'End the leases of registered workers whose sessions are gone, and forget those workers some time later.';
-- What is left to do, for a worker that wants to end when there is nothing.

CREATE FUNCTION pgq_pending(queues text[] DEFAULT '{default}', OUT ripe_in interval, OUT running boolean)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_pending$
BEGIN
    PERFORM _pgq_check_claim(queues, 0, NULL);

    -- From the left end of each lane: what a claim has not found yet counts, too.
    SELECT min(soonest.ripe_at) - pgq_now() INTO ripe_in
    FROM unnest(queues) AS q (queue)
    CROSS JOIN generate_series(0, 9) AS p (priority)
    CROSS JOIN LATERAL (
        SELECT w.ripe_at
        FROM pgq_waiting AS w
        WHERE w.queue = q.queue
          AND w.priority = p.priority
        ORDER BY w.ripe_at, w.id
        LIMIT 1
    ) AS soonest;
    running := EXISTS (SELECT FROM pgq_running AS r WHERE r.queue = ANY (queues));
END
$pgq_pending$;

COMMENT ON FUNCTION pgq_pending(text[]) IS
    'Whether there is work left in these queues: how long until the next waiting job is ripe (0 or less: one is, NULL: '
    'none waits), and whether jobs are running. It looks at all there is, so it may take longer than a claim. NULL is '
    'refused (22004), bad values raise 22023, a queue that your role may not use 42501.';
-- What happens to a job that succeeds.

CREATE FUNCTION _pgq_lease_lost(id bigint, token bigint) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_lease_lost$
BEGIN
    RAISE EXCEPTION 'job % is not held under token %', coalesce(id::text, 'null'), coalesce(token::text, 'null')
        USING ERRCODE = 'PGQ02',
              HINT = 'The lease ran out, or the job is over: stop working on it and roll back what was done for it.';
END
$_pgq_lease_lost$;

COMMENT ON FUNCTION _pgq_lease_lost(bigint, bigint) IS
    'Raise PGQ02: the caller does not hold the job.';


-- The one way out of pgq_running for who holds the job.
CREATE FUNCTION _pgq_take(id bigint, token bigint) RETURNS pgq_running
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_take$
DECLARE
    v_limit text[] := _pgq_limit('worker');
    v_job pgq_running;
BEGIN
    DELETE FROM pgq_running AS r
    WHERE r.id = _pgq_take.id
      AND r.token = _pgq_take.token
      AND (v_limit IS NULL OR r.queue = ANY (v_limit))
    RETURNING r.* INTO v_job;

    IF NOT FOUND THEN
        PERFORM _pgq_lease_lost(id, token);
    END IF;
    RETURN v_job;
END
$_pgq_take$;

COMMENT ON FUNCTION _pgq_take(bigint, bigint) IS
    'Remove a job from pgq_running and answer it; raises PGQ02 when it is not held under this token, or in a queue that '
    'the caller may not use.';


CREATE FUNCTION pgq_hold(id bigint, token bigint) RETURNS void
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_hold$
DECLARE
    v_limit text[] := _pgq_limit('worker');
BEGIN
    PERFORM
    FROM pgq_running AS r
    WHERE r.id = pgq_hold.id
      AND r.token = pgq_hold.token
      AND (v_limit IS NULL OR r.queue = ANY (v_limit))
    FOR UPDATE;

    IF NOT FOUND THEN
        PERFORM _pgq_lease_lost(id, token);
    END IF;
END
$pgq_hold$;

COMMENT ON FUNCTION pgq_hold(bigint, bigint) IS
    'Lock a running job until the end of this transaction, so that nobody else takes it meanwhile, even if the lease '
    'runs out. Raises PGQ02 when the lease is already lost, and for NULL.';


CREATE FUNCTION pgq_complete(id bigint, token bigint, result jsonb DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_complete$
DECLARE
    v_job pgq_running;
BEGIN
    IF octet_length(result::text) > 1048576 THEN
        RAISE EXCEPTION 'result takes % bytes as text, more than 1048576', octet_length(result::text)
            USING ERRCODE = 'program_limit_exceeded',
                  HINT = 'Store large data in a table of your own and return a reference to it.';
    END IF;

    v_job := _pgq_take(id, token);
    IF result IS NOT NULL THEN
        PERFORM _pgq_end(v_job, 'done', pgq_now(), v_job.errors, result);
    END IF;
END
$pgq_complete$;

COMMENT ON FUNCTION pgq_complete(bigint, bigint, jsonb) IS
    'End a running job. Without a result (NULL) nothing of it remains; with one it is kept in pgq_ended as done. In '
    'one transaction with the writes of the handler the effect is exactly once: it raises PGQ02 when the lease is '
    'lost, and for a NULL id or token, and the writes roll back. A result of more than 1 MiB is refused (54000).';


CREATE FUNCTION pgq_complete_many(ids bigint[], tokens bigint[]) RETURNS SETOF bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_complete_many$
DECLARE
    v_limit text[] := _pgq_limit('worker');
    v_rows tid[];
BEGIN
    IF ids IS NULL OR tokens IS NULL THEN
        RAISE EXCEPTION 'ids or tokens is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Pass two arrays of the same length, empty if there is nothing to complete.';
    END IF;
    IF cardinality(ids) <> cardinality(tokens) THEN
        RAISE EXCEPTION 'there are % ids but % tokens', cardinality(ids), cardinality(tokens)
            USING ERRCODE = 'array_subscript_error',
                  HINT = 'Pass the token of each job at the same place as its id.';
    END IF;

    -- A subquery that locks is never turned into a join, which statistics that are wrong would turn around: one look-up
    -- in the primary key for each pair, in the order of ids. Then a statement of its own, as in pgq_claim.
    v_rows := ARRAY(
        SELECT held.ctid
        FROM (
            SELECT u.id, u.token
            FROM unnest(ids, tokens) AS u (id, token)
            ORDER BY u.id
        ) AS given
        CROSS JOIN LATERAL (
            SELECT r.ctid
            FROM pgq_running AS r
            WHERE r.id = given.id
              AND r.token = given.token
              AND (v_limit IS NULL OR r.queue = ANY (v_limit))
            FOR UPDATE
        ) AS held
    );
    RETURN QUERY
    DELETE FROM pgq_running AS r WHERE r.ctid = ANY (v_rows) RETURNING r.id;
END
$pgq_complete_many$;

COMMENT ON FUNCTION pgq_complete_many(bigint[], bigint[]) IS
    'End running jobs, each under its token, and answer the ids that were ended. An id that is left out, or NULL, was '
    'not held any more and is not done. NULL arrays are refused (22004), and arrays of different lengths (2202E).';
-- What happens to a job that fails.

-- Exponent and result are clamped, so that nothing overflows: a hundred years are 3155760000 seconds.
CREATE FUNCTION pgq_backoff(attempt integer, base interval DEFAULT '1 minute', cap interval DEFAULT '1 hour') RETURNS interval
    LANGUAGE sql
    IMMUTABLE
    RETURN make_interval(secs => greatest(0, least(
        3155760000,
        extract(epoch FROM cap)::double precision,
        extract(epoch FROM base)::double precision * 2::double precision ^ least(greatest(attempt, 1) - 1, 60)
    )));

COMMENT ON FUNCTION pgq_backoff(integer, interval, interval) IS
    'The delay after a failed attempt: base * 2^(attempt-1), at least 0, at most cap and at most 100 years. NULL '
    'counts as no limit for cap, as the longest delay for base, and as the first attempt.';


CREATE FUNCTION _pgq_end(job pgq_running, outcome text, at timestamptz, errors jsonb, result jsonb) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_end$
BEGIN
    INSERT INTO pgq_ended (
        id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
        enqueued_at, errors, context, outcome, result, worker, ended_at
    )
    VALUES (
        job.id, job.queue, job.kind, job.args, job.priority, job.ripe_at, job.attempt, job.max_retries, job.backoff,
        job.backoff_cap, job.dedup, job.dedup_key, job.enqueued_at, errors, job.context, outcome, result,
        job.worker, at
    );
END
$_pgq_end$;

COMMENT ON FUNCTION _pgq_end(pgq_running, text, timestamptz, jsonb, jsonb) IS
    'Put a job that was just removed from pgq_running into pgq_ended.';


-- May wait: for the open transaction of a producer that has inserted a twin.
CREATE FUNCTION _pgq_put_back(job pgq_running, ripe_at timestamptz, attempt integer, errors jsonb) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_put_back$
BEGIN
    INSERT INTO pgq_waiting (
        id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
        enqueued_at, errors, context
    )
    VALUES (
        job.id, job.queue, job.kind, job.args, job.priority, ripe_at, attempt, job.max_retries, job.backoff,
        job.backoff_cap, job.dedup, job.dedup_key, job.enqueued_at, errors, job.context
    )
    ON CONFLICT (signature) DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF ripe_at <= pgq_now() THEN
        PERFORM _pgq_wake(job.queue);
    END IF;
    RETURN true;
END
$_pgq_put_back$;

COMMENT ON FUNCTION _pgq_put_back(pgq_running, timestamptz, integer, jsonb) IS
    'Put a job that was just removed from pgq_running into pgq_waiting; false if it merged into its twin there.';


CREATE FUNCTION _pgq_errors(job pgq_running, at timestamptz, error text) RETURNS jsonb
    LANGUAGE sql
    STABLE
    RETURN (
        jsonb_build_array(jsonb_build_object(
            'attempt', job.attempt, 'at', at, 'worker', job.worker, 'error', left(error, 4000)))
        || job.errors
    ) - 10;

COMMENT ON FUNCTION _pgq_errors(pgq_running, timestamptz, text) IS
    'The errors of a job and this one before them, the newest ten.';


CREATE FUNCTION _pgq_retry_or_bury(job pgq_running, at timestamptz, error text, ripe_at timestamptz) RETURNS text
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_retry_or_bury$
DECLARE
    v_errors jsonb := _pgq_errors(job, at, error);
BEGIN
    IF job.attempt > job.max_retries OR ripe_at IS NULL THEN
        PERFORM _pgq_end(job, 'dead', at, v_errors, NULL);
        RETURN 'dead';
    END IF;
    RETURN CASE WHEN _pgq_put_back(job, ripe_at, job.attempt, v_errors) THEN 'retry' ELSE 'merged' END;
END
$_pgq_retry_or_bury$;

COMMENT ON FUNCTION _pgq_retry_or_bury(pgq_running, timestamptz, text, timestamptz) IS
    'Note the error of an attempt that is over, and put the job back, or bury it when its retries are used up or ripe_at '
    'is NULL.';


CREATE FUNCTION pgq_fail(
    id bigint,
    token bigint,
    error text DEFAULT NULL,
    retry_in interval DEFAULT NULL,
    retry boolean DEFAULT true,
    OUT outcome text,
    OUT ripe_at timestamptz
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_fail$
DECLARE
    v_now timestamptz := pgq_now();
    v_job pgq_running;
    v_jitter double precision := CASE WHEN current_setting('pgq.jitter', true) = '0' THEN 0 ELSE 0.1 END;
BEGIN
    IF retry_in NOT BETWEEN interval '0' AND interval '100 years'
       OR v_now + retry_in NOT BETWEEN v_now AND v_now + interval '100 years' THEN
        RAISE EXCEPTION 'retry_in % is out of range', retry_in
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give an interval from 0 to 100 years, or NULL for the backoff of the job.';
    END IF;

    v_job := _pgq_take(id, token);

    IF retry IS NOT false THEN
        ripe_at := v_now + coalesce(
            retry_in,
            pgq_backoff(v_job.attempt, v_job.backoff, v_job.backoff_cap) * (1 + v_jitter * (2 * random() - 1))
        );
    END IF;
    outcome := _pgq_retry_or_bury(v_job, v_now, error, ripe_at);
    IF outcome <> 'retry' THEN
        ripe_at := NULL;
    END IF;
END
$pgq_fail$;

COMMENT ON FUNCTION pgq_fail(bigint, bigint, text, interval, boolean) IS
    'End an attempt that failed. Answers outcome retry and the time of the next attempt, after retry_in or (NULL) after '
    'the backoff of the job, give or take 10 % unless the setting pgq.jitter is 0; or dead, when the retries are used '
    'up, or at once where retry is false (NULL: true); or merged, when a twin is waiting already. The first 4000 '
    'characters of error are kept (NULL: none). Raises PGQ02 when the lease is lost, and for a NULL id or token; 22023 '
    'for a bad retry_in.';


CREATE FUNCTION pgq_discard(id bigint, token bigint, reason text DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_discard$
DECLARE
    v_now timestamptz := pgq_now();
    v_job pgq_running;
BEGIN
    v_job := _pgq_take(id, token);
    PERFORM _pgq_end(v_job, 'cancelled', v_now, _pgq_errors(v_job, v_now, reason), NULL);
END
$pgq_discard$;

COMMENT ON FUNCTION pgq_discard(bigint, bigint, text) IS
    'End a running job that its worker finds not worth doing: it is kept in pgq_ended as cancelled, with the first 4000 '
    'characters of reason (NULL: none) as its newest error. Raises PGQ02 when the lease is lost, and for a NULL id or '
    'token.';
-- What a worker does with a job that it neither completes nor fails: longer, later, or back.

CREATE FUNCTION pgq_extend(id bigint, token bigint, lease interval DEFAULT '5 minutes') RETURNS timestamptz
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_extend$
DECLARE
    v_until timestamptz := _pgq_lease_end(pgq_now(), lease);
    v_limit text[] := _pgq_limit('worker');
    v_row tid;
BEGIN
    SELECT r.ctid INTO v_row
    FROM pgq_running AS r
    WHERE r.id = pgq_extend.id
      AND r.token = pgq_extend.token
      AND (v_limit IS NULL OR r.queue = ANY (v_limit))
    FOR NO KEY UPDATE SKIP LOCKED;

    IF FOUND THEN
        UPDATE pgq_running AS r
        SET lease_until = greatest(r.lease_until, v_until)
        WHERE r.ctid = v_row
        RETURNING r.lease_until INTO v_until;
    ELSE
        -- Locked by pgq_hold, which is as good as a lease, or not there.
        SELECT r.lease_until INTO v_until
        FROM pgq_running AS r
        WHERE r.id = pgq_extend.id
          AND r.token = pgq_extend.token
          AND (v_limit IS NULL OR r.queue = ANY (v_limit));

        IF NOT FOUND THEN
            PERFORM _pgq_lease_lost(id, token);
        END IF;
    END IF;
    RETURN v_until;
END
$pgq_extend$;

COMMENT ON FUNCTION pgq_extend(bigint, bigint, interval) IS
    'Let the lease on a running job end no sooner than lease from now; answers when it ends. A job that is locked (see '
    'pgq_hold) is safe without, and left as it is. Raises PGQ02 when the lease is already lost, and for a NULL id or '
    'token; 22004 or 22023 for a bad lease.';


CREATE FUNCTION pgq_snooze(
    id bigint,
    token bigint,
    until timestamptz DEFAULT NULL,
    delay interval DEFAULT NULL
) RETURNS text
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_snooze$
DECLARE
    v_now timestamptz := pgq_now();
    v_until timestamptz;
    v_job pgq_running;
BEGIN
    IF (until IS NULL) = (delay IS NULL) THEN
        RAISE EXCEPTION '% given', CASE WHEN until IS NULL THEN 'neither until nor delay is' ELSE 'both until and delay are' END
            USING ERRCODE = CASE WHEN until IS NULL THEN '22004' ELSE '22023' END,
                  HINT = 'Give the time of the next attempt or how long to wait for it, or use pgq_release to have it at once.';
    END IF;
    -- Months and days of opposite signs can make what is small when compared, but large or negative when added.
    IF delay NOT BETWEEN interval '0' AND interval '100 years'
       OR v_now + delay NOT BETWEEN v_now AND v_now + interval '100 years' THEN
        RAISE EXCEPTION 'delay % is out of range', delay
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give an interval from 0 to 100 years.';
    END IF;
    IF until NOT BETWEEN v_now - interval '100 years' AND v_now + interval '100 years' THEN
        RAISE EXCEPTION 'until % is out of range', until
            USING ERRCODE = 'datetime_field_overflow',
                  HINT = 'Give a time within a hundred years of now.';
    END IF;
    v_until := coalesce(until, v_now + delay);

    v_job := _pgq_take(id, token);
    RETURN CASE WHEN _pgq_put_back(v_job, v_until, v_job.attempt - 1, v_job.errors) THEN 'snoozed' ELSE 'merged' END;
END
$pgq_snooze$;

COMMENT ON FUNCTION pgq_snooze(bigint, bigint, timestamptz, interval) IS
    'Put a running job back until a later time, or for so long; the attempt does not count. Answers snoozed, or merged '
    'when a twin is waiting already. Raises PGQ02 when the lease is lost, and for a NULL id or token; 22004, 22008 or '
    '22023 for a bad time or delay, and unless exactly one of the two is given.';


CREATE FUNCTION pgq_release(id bigint, token bigint) RETURNS text
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_release$
DECLARE
    v_job pgq_running;
BEGIN
    v_job := _pgq_take(id, token);
    RETURN CASE WHEN _pgq_put_back(v_job, v_job.ripe_at, v_job.attempt - 1, v_job.errors) THEN 'released' ELSE 'merged' END;
END
$pgq_release$;

COMMENT ON FUNCTION pgq_release(bigint, bigint) IS
    'Put a running job back at its old place, ripe at once; the attempt does not count. Answers released, or merged '
    'when a twin is waiting already. Raises PGQ02 when the lease is lost, and for NULL.';
-- What there is to look at, and for whom.

-- A view knows who asks: current_user is whoever reads from it, while the tables are read with the rights of its owner.
CREATE VIEW _pgq_sight AS
SELECT o.is_owner OR bool_or(p.what IS NOT NULL AND p.queues IS NULL) AS sees_all,
       array_agg(q.queue) AS sees,
       o.is_owner OR bool_or(p.what = 'admin' AND p.queues IS NULL) IS TRUE AS reads_all,
       array_agg(q.queue) FILTER (WHERE p.what = 'admin') AS reads
FROM (
    SELECT pg_has_role(current_user, c.relowner, 'USAGE') AS is_owner
    FROM pg_class AS c
    WHERE c.oid = 'pgq_permission'::regclass
) AS o
LEFT JOIN pgq_permission AS p ON p.what IN ('admin', 'reader') AND pg_has_role(current_user, p.role::oid, 'USAGE')
LEFT JOIN LATERAL unnest(p.queues) AS q (queue) ON true
GROUP BY o.is_owner;

COMMENT ON VIEW _pgq_sight IS
    'The queues that whoever reads a view may see, as reader or admin, and those whose jobs he may read, as admin.';


-- A barrier, so that no condition of the reader's is shown a row that is hidden from him.
CREATE VIEW pgq_job WITH (security_barrier) AS
SELECT j.id, j.state, j.queue, j.kind, CASE WHEN s.reads THEN j.args END AS args, j.priority, j.ripe_at, j.attempt,
       j.max_retries, j.backoff, j.backoff_cap, j.dedup, CASE WHEN s.reads THEN j.dedup_key END AS dedup_key,
       j.enqueued_at, CASE WHEN s.reads THEN j.errors END AS errors, j.worker, j.claimed_at, j.lease_until, j.ended_at,
       CASE WHEN s.reads THEN j.result END AS result, CASE WHEN s.reads THEN j.context END AS context
FROM (
    SELECT id, 'waiting'::text AS state, queue, kind, args, priority::integer AS priority, ripe_at, attempt, max_retries,
           backoff, backoff_cap, dedup, dedup_key, enqueued_at, errors, NULL::text AS worker,
           NULL::timestamptz AS claimed_at, NULL::timestamptz AS lease_until, NULL::timestamptz AS ended_at,
           NULL::jsonb AS result, context
    FROM pgq_waiting
    UNION ALL
    SELECT id, 'running', queue, kind, args, priority, ripe_at, attempt, max_retries,
           backoff, backoff_cap, dedup, dedup_key, enqueued_at, errors, worker,
           claimed_at, lease_until, NULL, NULL, context
    FROM pgq_running
    UNION ALL
    SELECT id, outcome, queue, kind, args, priority, ripe_at, attempt, max_retries,
           backoff, backoff_cap, dedup, dedup_key, enqueued_at, errors, worker,
           NULL, NULL, ended_at, result, context
    FROM pgq_ended
) AS j
CROSS JOIN LATERAL (
    SELECT sight.sees_all OR j.queue = ANY (sight.sees) AS sees, sight.reads_all OR j.queue = ANY (sight.reads) AS reads
    FROM _pgq_sight AS sight
) AS s
WHERE s.sees;

COMMENT ON VIEW pgq_job IS
    'All jobs as one list, with their state: waiting, running, dead, cancelled or done. A job that was completed '
    'without a result is gone. Only jobs of queues that your role may see, as admin or reader; args, dedup_key, errors, '
    'result and context are NULL unless as admin.';


-- Each side is filtered before the join: whoever claims under the name of a hidden worker must not learn of it.
CREATE VIEW pgq_workers WITH (security_barrier) AS
SELECT coalesce(w.name, r.worker) AS name, w.host, w.pid, w.queues, w.registered_at,
       w.number IN (SELECT number FROM _pgq_presence) AS present, coalesce(r.running, 0) AS running, r.kinds, r.oldest_claimed_at
FROM (
    SELECT worker.name, worker.number, worker.host, worker.pid, worker.registered_at,
           CASE WHEN s.sees_all THEN worker.queues ELSE ARRAY(SELECT q FROM unnest(worker.queues) AS q WHERE q = ANY (s.sees)) END AS queues
    FROM pgq_worker AS worker
    CROSS JOIN _pgq_sight AS s
    WHERE s.sees_all OR worker.queues && s.sees
) AS w
FULL JOIN (
    SELECT job.worker, count(*) AS running, array_agg(DISTINCT job.kind ORDER BY job.kind) AS kinds,
           min(job.claimed_at) AS oldest_claimed_at
    FROM pgq_running AS job
    CROSS JOIN _pgq_sight AS s
    WHERE job.worker IS NOT NULL
      AND (s.sees_all OR job.queue = ANY (s.sees))
    GROUP BY job.worker
) AS r ON r.worker = w.name;

COMMENT ON VIEW pgq_workers IS
    'Workers that have registered or hold jobs: where they run and since when, whether they are present (NULL: never '
    'registered), how many jobs they hold, of which kinds, and since when the oldest of them. Only as far as they serve '
    'queues that your role may see.';


CREATE VIEW pgq_stats AS
SELECT j.queue, j.kind,
       count(*) FILTER (WHERE j.state = 'waiting') AS waiting,
       count(*) FILTER (WHERE j.state = 'waiting' AND j.ripe_at <= clock.now) AS ripe,
       count(*) FILTER (WHERE j.state = 'running') AS running,
       count(*) FILTER (WHERE j.state = 'dead') AS dead,
       count(*) FILTER (WHERE j.state = 'cancelled') AS cancelled,
       count(*) FILTER (WHERE j.state = 'done') AS done,
       max(clock.now - j.ripe_at) FILTER (WHERE j.state = 'waiting' AND j.ripe_at <= clock.now) AS oldest_ripe_age
FROM pgq_job AS j
CROSS JOIN (SELECT pgq_now() AS now) AS clock
GROUP BY j.queue, j.kind;

COMMENT ON VIEW pgq_stats IS
    'Numbers of jobs by queue and kind; ripe are those of the waiting that a worker could claim now, and '
    'oldest_ripe_age is how long the first of them has been (NULL: none is ripe). Only queues that your role may see.';
-- The operator's verbs.

CREATE FUNCTION _pgq_state(id bigint) RETURNS text
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_state$
DECLARE
    v_limit text[] := _pgq_limit('admin');
    v_state text;
BEGIN
    SELECT j.state INTO v_state
    FROM pgq_job AS j
    WHERE j.id = _pgq_state.id
      AND (v_limit IS NULL OR j.queue = ANY (v_limit));
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no job %', coalesce(id::text, 'null')
            USING ERRCODE = 'PGQ01',
                  HINT = 'It may be done: a job that is completed without a result leaves nothing behind.';
    END IF;
    RETURN v_state;
END
$_pgq_state$;

COMMENT ON FUNCTION _pgq_state(bigint) IS
    'The state of a job as in the view pgq_job; raises PGQ01 when there is no such job, or only in a queue that the '
    'caller may not use.';


CREATE FUNCTION pgq_cancel(id bigint) RETURNS void
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_cancel$
DECLARE
    v_limit text[] := _pgq_limit('admin');
    v_waiting pgq_waiting;
    v_running pgq_running;
    v_state text;
BEGIN
    -- Round again when the job has moved from one table to another between two statements.
    LOOP
        DELETE FROM pgq_waiting AS w
        WHERE w.id = pgq_cancel.id
          AND (v_limit IS NULL OR w.queue = ANY (v_limit))
        RETURNING w.* INTO v_waiting;
        IF FOUND THEN
            INSERT INTO pgq_ended (
                id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
                enqueued_at, errors, context, outcome, ended_at
            )
            VALUES (
                v_waiting.id, v_waiting.queue, v_waiting.kind, v_waiting.args, v_waiting.priority, v_waiting.ripe_at,
                v_waiting.attempt, v_waiting.max_retries, v_waiting.backoff, v_waiting.backoff_cap, v_waiting.dedup,
                v_waiting.dedup_key, v_waiting.enqueued_at, v_waiting.errors, v_waiting.context, 'cancelled',
                pgq_now()
            );
            RETURN;
        END IF;

        DELETE FROM pgq_running AS r
        WHERE r.id = pgq_cancel.id
          AND (v_limit IS NULL OR r.queue = ANY (v_limit))
        RETURNING r.* INTO v_running;
        IF FOUND THEN
            PERFORM _pgq_end(v_running, 'cancelled', pgq_now(), v_running.errors, NULL);
            RETURN;
        END IF;

        v_state := _pgq_state(id);
        IF v_state NOT IN ('waiting', 'running') THEN
            RAISE EXCEPTION 'job % is % and cannot be cancelled', id, v_state
                USING ERRCODE = 'PGQ03',
                      HINT = 'Only a job that is waiting or running can be cancelled.';
        END IF;
    END LOOP;
END
$pgq_cancel$;

COMMENT ON FUNCTION pgq_cancel(bigint) IS
    'End a waiting or running job; it is kept in pgq_ended as cancelled. The worker of a running one is not '
    'interrupted, but has lost its lease: what it does in a transaction with pgq_complete rolls back. While a '
    'transaction holds the job (pgq_hold) the call waits for its end, and may come too late. Raises PGQ01 for an '
    'unknown id, NULL, or one in a queue that your role may not use, PGQ03 for a job that has ended already.';


CREATE FUNCTION pgq_retry(id bigint) RETURNS text
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_retry$
DECLARE
    v_limit text[] := _pgq_limit('admin');
    v_job pgq_ended;
BEGIN
    DELETE FROM pgq_ended AS e
    WHERE e.id = pgq_retry.id
      AND (v_limit IS NULL OR e.queue = ANY (v_limit))
      AND e.outcome IN ('dead', 'cancelled')
    RETURNING e.* INTO v_job;

    IF NOT FOUND THEN
        RAISE EXCEPTION 'job % is % and cannot be retried', id, _pgq_state(id)
            USING ERRCODE = 'PGQ03',
                  HINT = 'Only a dead or cancelled job can be retried; to have a waiting one run at once, enqueue it '
                         'again with on_duplicate => ''soonest''.';
    END IF;

    INSERT INTO pgq_waiting (
        id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
        enqueued_at, errors, context
    )
    VALUES (
        v_job.id, v_job.queue, v_job.kind, v_job.args, v_job.priority, pgq_now(), 0, v_job.max_retries, v_job.backoff,
        v_job.backoff_cap, v_job.dedup, v_job.dedup_key, v_job.enqueued_at, v_job.errors, v_job.context
    )
    ON CONFLICT (signature) DO NOTHING;
    IF NOT FOUND THEN
        RETURN 'merged';
    END IF;
    PERFORM _pgq_wake(v_job.queue);
    RETURN 'retry';
END
$pgq_retry$;

COMMENT ON FUNCTION pgq_retry(bigint) IS
    'Bring a dead or cancelled job back: ripe now, with all its retries before it, its errors kept. Answers retry, or '
    'merged when a twin is waiting already. Raises PGQ01 for an unknown id, NULL, or one in a queue that your '
    'role may not use, PGQ03 for a job in another state.';
-- Jobs that are over take up space until this removes them.

CREATE FUNCTION pgq_purge(
    older_than interval DEFAULT '30 days',
    outcome text DEFAULT NULL,
    queue text DEFAULT NULL,
    max_jobs integer DEFAULT 10000
) RETURNS bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_purge$
DECLARE
    v_now timestamptz := pgq_now();
    v_limit text[] := _pgq_limit('admin');
    v_purged bigint;
BEGIN
    IF older_than IS NULL OR max_jobs IS NULL THEN
        RAISE EXCEPTION 'older_than or max_jobs is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Leave the argument out for the default.';
    END IF;
    IF older_than NOT BETWEEN interval '0' AND interval '100 years' OR max_jobs < 0
       OR outcome NOT IN ('dead', 'cancelled', 'done') THEN
        RAISE EXCEPTION 'cannot purge % jobs older than % with outcome "%"', max_jobs, older_than, left(outcome, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give an interval from 0 to 100 years, a number from 0, and dead, cancelled, done or NULL.';
    END IF;
    IF queue <> ALL (v_limit) THEN
        PERFORM _pgq_refuse(queue, 'admin');
    END IF;

    WITH old AS (
        SELECT e.id
        FROM pgq_ended AS e
        WHERE e.ended_at <= v_now - older_than
          AND (pgq_purge.outcome IS NULL OR e.outcome = pgq_purge.outcome)
          AND (pgq_purge.queue IS NULL OR e.queue = pgq_purge.queue)
          AND (v_limit IS NULL OR e.queue = ANY (v_limit))
        ORDER BY e.ended_at
        LIMIT max_jobs
        FOR UPDATE SKIP LOCKED
    )
    DELETE FROM pgq_ended AS e USING old WHERE e.id = old.id;

    GET DIAGNOSTICS v_purged = ROW_COUNT;
    RETURN v_purged;
END
$pgq_purge$;

COMMENT ON FUNCTION pgq_purge(interval, text, text, integer) IS
    'Delete jobs that ended longer ago than older_than, the oldest first, at most max_jobs at a time; answers how many. '
    'NULL for outcome means any, NULL for queue any that your role may use; NULL for the others is refused (22004), bad '
    'values raise 22023, a queue that your role may not use 42501.';
-- What it takes to be a producer, worker, admin or reader.

CREATE FUNCTION _pgq_functions(what text) RETURNS text[]
    LANGUAGE sql
    IMMUTABLE
    RETURN CASE what
        WHEN 'producer' THEN ARRAY['pgq_enqueue', 'pgq_enqueue_many']
        WHEN 'worker' THEN ARRAY['pgq_claim', 'pgq_register', 'pgq_unregister', 'pgq_disown', 'pgq_pending', 'pgq_idle',
                                 'pgq_hold', 'pgq_complete', 'pgq_complete_many', 'pgq_fail', 'pgq_discard', 'pgq_extend',
                                 'pgq_snooze', 'pgq_release']
        WHEN 'admin' THEN ARRAY['pgq_cancel', 'pgq_retry', 'pgq_purge', 'pgq_now']
        WHEN 'reader' THEN ARRAY['pgq_now']
    END || ARRAY['pgq_backoff', 'pgq_version'];

COMMENT ON FUNCTION _pgq_functions(text) IS
    'The functions that a producer, worker, admin or reader may execute; NULL for anything else.';


CREATE FUNCTION _pgq_check_grant(role text, what text, queues text[]) RETURNS regrole
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_check_grant$
DECLARE
    v_role regrole := (SELECT r.oid FROM pg_roles AS r WHERE r.rolname = role);
    v_queue text;
BEGIN
    IF role IS NULL OR what IS NULL THEN
        RAISE EXCEPTION 'role or what is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Name a database role, and producer, worker, admin or reader.';
    END IF;
    IF what NOT IN ('producer', 'worker', 'admin', 'reader') THEN
        RAISE EXCEPTION 'what "%" is unknown', left(what, 200)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use producer, worker, admin or reader.';
    END IF;
    IF v_role IS NULL THEN
        RAISE EXCEPTION 'there is no role "%"', left(role, 200)
            USING ERRCODE = 'undefined_object',
                  HINT = 'Create it first; names are case-sensitive here and take no quotes.';
    END IF;
    IF cardinality(queues) = 0 THEN
        RAISE EXCEPTION 'queues is empty'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Name at least one queue, or leave the argument out for all of them.';
    END IF;
    FOREACH v_queue IN ARRAY coalesce(queues, '{}') LOOP
        IF v_queue IS NULL THEN
            RAISE EXCEPTION 'one of the queues is null'
                USING ERRCODE = 'null_value_not_allowed',
                      HINT = 'Name each queue, or leave the argument out for all of them.';
        END IF;
        IF octet_length(v_queue) NOT BETWEEN 1 AND 200 OR strpos(v_queue, E'\x1f') > 0 THEN
            RAISE EXCEPTION 'queue "%" is not a name', left(v_queue, 200)
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'Use 1 to 200 bytes without the character U+001F.';
        END IF;
    END LOOP;
    RETURN v_role;
END
$_pgq_check_grant$;

COMMENT ON FUNCTION _pgq_check_grant(text, text, text[]) IS
    'Refuse bad arguments of pgq_grant and pgq_revoke (22004, 22023, 42704), and answer the role.';


-- The only dynamic SQL of pgq, because GRANT and REVOKE take no parameters; with the rights of the caller, so that it gives
-- away nothing that the caller could not grant by hand.
CREATE FUNCTION _pgq_grant_privileges(role regrole, what text) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_grant_privileges$
DECLARE
    c_schema CONSTANT text := current_schema();
    v_function text;
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %s', c_schema, role);
    FOREACH v_function IN ARRAY _pgq_functions(what) LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %I.%I TO %s', c_schema, v_function, role);
    END LOOP;
    IF what = 'admin' THEN
        EXECUTE format('GRANT SELECT ON %I.pgq_job TO %s', c_schema, role);
    ELSIF what = 'reader' THEN
        EXECUTE format(
            'GRANT SELECT (id, state, queue, kind, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, '
            'enqueued_at, worker, claimed_at, lease_until, ended_at) ON %I.pgq_job TO %s', c_schema, role);
    END IF;
    IF what IN ('admin', 'reader') THEN
        EXECUTE format('GRANT SELECT ON %1$I.pgq_stats, %1$I.pgq_workers TO %2$s', c_schema, role);
    END IF;
END
$_pgq_grant_privileges$;

COMMENT ON FUNCTION _pgq_grant_privileges(regrole, text) IS
    'Give a role the privileges of a producer, worker, admin or reader.';


CREATE FUNCTION _pgq_revoke_privileges(role regrole, what text) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_revoke_privileges$
DECLARE
    c_schema CONSTANT text := current_schema();
    v_function text;
BEGIN
    FOREACH v_function IN ARRAY _pgq_functions(what) LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %I.%I FROM %s', c_schema, v_function, role);
    END LOOP;
    IF what IN ('admin', 'reader') THEN
        EXECUTE format('REVOKE SELECT ON %1$I.pgq_job, %1$I.pgq_stats, %1$I.pgq_workers FROM %2$s', c_schema, role);
    END IF;
END
$_pgq_revoke_privileges$;

COMMENT ON FUNCTION _pgq_revoke_privileges(regrole, text) IS
    'Take the privileges of a producer, worker, admin or reader from a role.';
-- Who may do what. The roles are siblings: grant two of them to who needs both.

CREATE FUNCTION pgq_grant(role text, what text, queues text[] DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $pgq_grant$
DECLARE
    v_role regrole := _pgq_check_grant(role, what, queues);
BEGIN
    -- A function that anybody may create beside those of pgq can be a better match for a call in them than the one meant.
    IF has_schema_privilege('public', current_schema(), 'CREATE') THEN
        RAISE EXCEPTION 'everybody may create objects in the schema "%"', current_schema()
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('They could act with the rights of the owner of pgq: REVOKE CREATE ON SCHEMA %I FROM PUBLIC first.',
                                current_schema());
    END IF;

    -- What roles leave behind that were dropped, or lost their privileges by hand or by DROP OWNED, must not come back.
    DELETE FROM pgq_permission AS p
    WHERE p.role NOT IN (SELECT r.oid FROM pg_roles AS r)
       OR p.role = v_role
          AND p.what = pgq_grant.what
          AND NOT EXISTS (
              SELECT
              FROM pg_proc AS f
              CROSS JOIN LATERAL aclexplode(f.proacl) AS a
              WHERE f.oid = (_pgq_functions(p.what))[1]::regproc
                AND a.grantee = p.role
          );

    INSERT INTO pgq_permission AS p (what, role, queues)
    VALUES (what, v_role, queues)
    ON CONFLICT ON CONSTRAINT pgq_permission_pkey DO UPDATE
    SET queues = CASE WHEN p.queues IS NOT NULL AND excluded.queues IS NOT NULL THEN
                     p.queues || ARRAY(SELECT q FROM unnest(excluded.queues) AS q WHERE q <> ALL (p.queues))
                 END;
    PERFORM _pgq_grant_privileges(v_role, what);
END
$pgq_grant$;

COMMENT ON FUNCTION pgq_grant(text, text, text[]) IS
    'Let a role use pgq: as producer enqueue; as worker claim and what follows; as admin cancel, retry, purge and see '
    'everything; as reader see counts and states, but neither args nor errors nor results. With queues only those, '
    'beside what it was granted before; without (NULL) all. What lies in other queues then is, for that role, not there. '
    'It is the role of the session or of SET ROLE that counts, and membership as in PostgreSQL; not the owner of a '
    'function that calls pgq. Only the owner of pgq can call it. NULL for role or what is refused (22004), an unknown '
    'role too (42704), another what or a bad queue (22023), and a schema in which everybody may create objects (55000).';


CREATE FUNCTION pgq_revoke(role text, what text, queues text[] DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $pgq_revoke$
DECLARE
    v_role regrole := _pgq_check_grant(role, what, queues);
    v_permission pgq_permission;
    v_left text[];
BEGIN
    IF queues IS NOT NULL THEN
        SELECT p.* INTO v_permission
        FROM pgq_permission AS p
        WHERE p.what = pgq_revoke.what
          AND p.role = v_role
        FOR UPDATE;

        IF NOT FOUND THEN
            RETURN;
        END IF;
        IF v_permission.queues IS NULL THEN
            RAISE EXCEPTION 'role "%" may use all queues as %', role, what
                USING ERRCODE = 'PGQ03',
                      HINT = 'Call pgq_revoke without queues, then pgq_grant with those that are left, in one transaction.';
        END IF;
        v_left := ARRAY(SELECT q FROM unnest(v_permission.queues) AS q WHERE q <> ALL (pgq_revoke.queues));
        IF v_left <> '{}' THEN
            UPDATE pgq_permission AS p
            SET queues = v_left
            WHERE p.what = pgq_revoke.what
              AND p.role = v_role;
            RETURN;
        END IF;
    END IF;

    DELETE FROM pgq_permission AS p WHERE p.what = pgq_revoke.what AND p.role = v_role;
    PERFORM _pgq_revoke_privileges(v_role, what);
    -- Some privileges belong to several.
    PERFORM _pgq_grant_privileges(v_role, p.what) FROM pgq_permission AS p WHERE p.role = v_role;
END
$pgq_revoke$;

COMMENT ON FUNCTION pgq_revoke(text, text, text[]) IS
    'Take back what pgq_grant gave a role: these queues, or (NULL) all of it. Usage of the schema remains, and what the '
    'role is granted as a member of others. Nothing happens when there is nothing to take; PGQ03 is raised when queues '
    'are to be taken from a role that may use all. Only the owner of pgq can call it. Bad arguments as in pgq_grant.';
-- Nobody but the owner may touch anything until pgq_grant says so. PostgreSQL lets PUBLIC execute each new function,
-- so this list must name them all.

REVOKE ALL ON TABLE pgq_permission, pgq_waiting, pgq_running, pgq_ended, pgq_head, pgq_worker, _pgq_presence, _pgq_sight,
    pgq_job, pgq_workers, pgq_stats FROM PUBLIC;
REVOKE ALL ON SEQUENCE pgq_job_id, pgq_token, pgq_worker_number FROM PUBLIC;
REVOKE ALL ON FUNCTION
    pgq_now, pgq_version, _pgq_signature, _pgq_caller, _pgq_limit, _pgq_refuse, _pgq_channel, _pgq_wake, pgq_idle,
    _pgq_problem, pgq_enqueue, _pgq_check_jobs, _pgq_parse_jobs, _pgq_change_twins, _pgq_meet_twins, pgq_enqueue_many,
    _pgq_is_long, _pgq_pause, _pgq_steps, _pgq_microseconds, _pgq_head_setting, _pgq_keep_head, _pgq_shared_head,
    _pgq_recall_head, _pgq_reached, _pgq_share_head, _pgq_move_heads,
    _pgq_lease_end, _pgq_check_claim, pgq_claim, _pgq_expire, _pgq_expire_sometimes,
    pgq_register, pgq_unregister, pgq_disown, _pgq_sweep, pgq_pending,
    _pgq_lease_lost, _pgq_take, pgq_hold, pgq_complete, pgq_complete_many,
    pgq_backoff, _pgq_end, _pgq_put_back, _pgq_errors, _pgq_retry_or_bury, pgq_fail, pgq_discard,
    pgq_extend, pgq_snooze, pgq_release,
    _pgq_state, pgq_cancel, pgq_retry, pgq_purge,
    _pgq_functions, _pgq_check_grant, _pgq_grant_privileges, _pgq_revoke_privileges, pgq_grant, pgq_revoke
FROM PUBLIC;
-- pg_dump saves the members of an extension only where it is told to. One call a statement: a second call
-- for another table in the same statement would not see the first one's change.
SELECT pg_extension_config_dump('pgq_permission', '');
SELECT pg_extension_config_dump('pgq_waiting', '');
SELECT pg_extension_config_dump('pgq_running', '');
SELECT pg_extension_config_dump('pgq_ended', '');
SELECT pg_extension_config_dump('pgq_job_id', '');
SELECT pg_extension_config_dump('pgq_token', '');
