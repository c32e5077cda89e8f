-- From 0.1.0 to 0.2.0: roles that may use some queues only.


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


-- Workers that have registered already were limited to nothing.
ALTER TABLE pgq_worker ADD COLUMN reach text[];

COMMENT ON COLUMN pgq_worker.reach IS 'Queues whose jobs it may hold, as far as its role is limited to some; NULL: all.';


COMMENT ON FUNCTION pgq_idle(text[], boolean) IS
    'Say that this session is about to sleep until there are jobs in these queues (true), or awake again (false), and '
    'answer the channels, one for each queue, on which it is notified of ripe jobs while it sleeps. LISTEN to them, call '
    'this, claim once more, then sleep: no longer than a poll, for a notification is a hint. NULL is refused (22004), bad '
    'values raise 22023, a queue that your role may not use 42501.';


CREATE OR REPLACE FUNCTION pgq_enqueue(
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


CREATE OR REPLACE FUNCTION pgq_enqueue_many(jobs jsonb) RETURNS TABLE (n bigint, id bigint, created boolean)
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


CREATE OR REPLACE FUNCTION _pgq_check_claim(queues text[], max_jobs integer, worker text) RETURNS void
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


COMMENT ON FUNCTION pgq_claim(text[], integer, interval, text) IS
    'Take up to max_jobs ripe jobs of these queues, lowest priority number first, then by ripe_at; within one priority '
    'the queues are served in the order given. Each row carries the token that every further call about the job wants '
    'back; the attempt is counted. When lease runs out before the job is completed, failed, released, snoozed or '
    'extended, the job is taken back. Expired leases of any queue are settled first, once a second. No row when nothing '
    'is ripe, or only what lies behind many jobs that are gone and was not found yet. NULL is refused (22004) but for '
    'worker, a name to be shown; bad values raise 22023, a queue that your role may not use 42501.';


CREATE OR REPLACE FUNCTION pgq_register(
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


-- The order of the ids is that of most claims; whoever waits for a twin that is not committed gives up where the others
-- do, by the lock_timeout of his session.
CREATE OR REPLACE FUNCTION pgq_disown(name text, tokens bigint[]) RETURNS bigint
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


-- Called from within claims, so it waits for nobody. Where a worker is gone its lock can be had; to ask for that is cheap,
-- and only then the list of all locks is looked at, for this session may be the worker's own.
--
-- A worker is kept for ten seconds after it was found gone, for the sake of a claim that commits after its worker died,
-- and of jobs that are locked by a statement of its which goes on. And right after a start of the server nobody is there
-- yet: workers have five seconds to come back.
CREATE OR REPLACE FUNCTION _pgq_sweep(at timestamptz) RETURNS void
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


COMMENT ON FUNCTION pgq_pending(text[]) IS
    'Whether there is work left in these queues: how long until the next waiting job is ripe (0 or less: one is, NULL: '
    'none waits), and whether jobs are running. It looks at all there is, so it may take longer than a claim. NULL is '
    'refused (22004), bad values raise 22023, a queue that your role may not use 42501.';


-- The one way out of pgq_running for who holds the job.
CREATE OR REPLACE FUNCTION _pgq_take(id bigint, token bigint) RETURNS pgq_running
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


CREATE OR REPLACE FUNCTION pgq_hold(id bigint, token bigint) RETURNS void
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


CREATE OR REPLACE FUNCTION pgq_complete_many(ids bigint[], tokens bigint[]) RETURNS SETOF bigint
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


CREATE OR REPLACE FUNCTION pgq_extend(id bigint, token bigint, lease interval DEFAULT '5 minutes') RETURNS timestamptz
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
CREATE OR REPLACE VIEW pgq_job WITH (security_barrier) AS
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
CREATE OR REPLACE VIEW pgq_workers WITH (security_barrier) AS
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


COMMENT ON VIEW pgq_stats IS
    'Numbers of jobs by queue and kind; ripe are those of the waiting that a worker could claim now, and '
    'oldest_ripe_age is how long the first of them has been (NULL: none is ripe). Only queues that your role may see.';


CREATE OR REPLACE FUNCTION _pgq_state(id bigint) RETURNS text
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


CREATE OR REPLACE FUNCTION pgq_cancel(id bigint) RETURNS void
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


CREATE OR REPLACE FUNCTION pgq_retry(id bigint) RETURNS text
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


CREATE OR REPLACE FUNCTION pgq_purge(
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


-- The third argument of its successor has a default, so that the call with two goes on working.
-- squawk-ignore ban-drop-function
DROP FUNCTION pgq_grant(text, text);


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


-- Who was granted something may go on in all queues, even if it was granted by hand and in part. An administrator is
-- told by the whole of pgq_job, a reader by some of its columns.
INSERT INTO pgq_permission (what, role)
WITH held (object, role) AS (
    SELECT f.proname::text, a.grantee
    FROM pg_proc AS f
    CROSS JOIN LATERAL aclexplode(f.proacl) AS a
    WHERE f.pronamespace = quote_ident(current_schema())::regnamespace
      AND a.grantee NOT IN (0, f.proowner)
    UNION
    SELECT c.relname::text, a.grantee
    FROM pg_class AS c
    CROSS JOIN LATERAL aclexplode(c.relacl) AS a
    WHERE c.oid IN ('pgq_job'::regclass, 'pgq_stats'::regclass, 'pgq_workers'::regclass)
      AND a.privilege_type = 'SELECT'
      AND a.grantee NOT IN (0, c.relowner)
    UNION
    SELECT 'a column', a.grantee
    FROM pg_attribute AS c
    CROSS JOIN LATERAL aclexplode(c.attacl) AS a
    WHERE c.attrelid IN ('pgq_job'::regclass, 'pgq_stats'::regclass, 'pgq_workers'::regclass)
      AND a.privilege_type = 'SELECT'
      AND a.grantee <> 0
)
SELECT DISTINCT w.what, h.role
FROM unnest('{producer,worker,admin}'::text[]) AS w (what)
JOIN held AS h ON h.object = ANY (_pgq_functions(w.what)) AND h.object NOT IN ('pgq_now', 'pgq_backoff', 'pgq_version')
UNION
SELECT 'admin', h.role FROM held AS h WHERE h.object = 'pgq_job'
UNION
SELECT 'reader', h.role FROM held AS h WHERE h.object = 'a column'
UNION
SELECT 'reader', h.role
FROM held AS h
WHERE h.object IN ('pgq_stats', 'pgq_workers')
  AND h.role NOT IN (SELECT o.role FROM held AS o WHERE o.object = 'pgq_job');


SELECT pg_extension_config_dump('pgq_permission', '');


REVOKE ALL ON TABLE pgq_permission, _pgq_sight FROM PUBLIC;
REVOKE ALL ON FUNCTION
    _pgq_caller, _pgq_limit, _pgq_refuse,
    _pgq_functions, _pgq_check_grant, _pgq_grant_privileges, _pgq_revoke_privileges, pgq_grant, pgq_revoke
FROM PUBLIC;
