-- Worker presence, by which the jobs of a worker that was killed are ripe at once, not only when their leases end.

CREATE VIEW _pgq_presence AS
SELECT l.objid::integer AS number, l.pid
FROM pg_locks AS l
WHERE l.locktype = 'advisory'
  AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
  AND l.classid = 'pgq_worker_session'::regclass
  AND l.objsubid = 2
  AND l.mode = 'ExclusiveLock'
  AND l.granted;

COMMENT ON VIEW _pgq_presence IS
    'The workers that are present: their numbers, and the server process ids of their sessions.';


CREATE FUNCTION pgq_register(
    worker text,
    queues text[] DEFAULT '{default}',
    host text DEFAULT NULL,
    pid bigint DEFAULT NULL,
    kinds text[] DEFAULT NULL,
    shares boolean DEFAULT false
) RETURNS void
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_register$
DECLARE
    c_class CONSTANT integer := 'pgq_worker_session'::regclass::oid::integer;
    v_allowed text[] := _pgq_allowed_queues('worker');
    v_number integer;
    v_mine boolean;
BEGIN
    IF worker IS NULL THEN
        RAISE EXCEPTION 'worker is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Give a name that no other process ever has, and claim under the same name.';
    END IF;
    IF octet_length(worker) NOT BETWEEN 1 AND 200 OR octet_length(host) > 200 THEN
        RAISE EXCEPTION 'worker is empty, or worker or host takes more than 200 bytes'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Use 1 to 200 bytes, such as the host, the process id and something random.';
    END IF;
    IF pid NOT BETWEEN 0 AND 2147483647 THEN
        RAISE EXCEPTION 'pid % is out of range', pid
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give the number of the process, from 0 to 2147483647, or leave the argument out.';
    END IF;
    IF shares IS NULL THEN
        RAISE EXCEPTION 'shares is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Say true if the process of the worker also serves other databases, or leave the argument out.';
    END IF;
    IF EXISTS (SELECT FROM unnest(kinds) AS k WHERE k IS NULL) THEN
        RAISE EXCEPTION 'one of the kinds is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Name each kind that the worker has a handler for, or leave the argument out.';
    END IF;
    IF queues IS DISTINCT FROM '{}' THEN
        PERFORM _pgq_check_claim(queues, 0, NULL);
    END IF;

    -- A session that takes over a name keeps the jobs that were claimed under it, so its role must be allowed all their
    -- queues.
    INSERT INTO pgq_worker_session AS w (name, queues, host, pid, registered_at, allowed_queues, kinds, shares)
    VALUES (worker, queues, host, pid, pgq_now(), v_allowed, kinds, shares)
    ON CONFLICT ON CONSTRAINT pgq_worker_session_pkey DO UPDATE
    SET queues = excluded.queues, host = excluded.host, pid = excluded.pid, gone_at = NULL,
        allowed_queues = excluded.allowed_queues, kinds = excluded.kinds, lost_several = false,
        shares = excluded.shares
    WHERE v_allowed IS NULL OR w.allowed_queues <@ v_allowed
    RETURNING w.number INTO v_number;

    -- Session locks are counted: a second one would outlive pgq_unregister.
    v_mine := EXISTS (SELECT FROM _pgq_presence AS p WHERE p.number = v_number AND p.pid = pg_backend_pid());
    -- The sweep holds this lock for an instant.
    FOR v_try IN 1..20 LOOP
        EXIT WHEN v_mine OR v_number IS NULL;
        v_mine := pg_try_advisory_lock(c_class, v_number);
        IF NOT v_mine THEN
            PERFORM pg_sleep(0.005);
        END IF;
    END LOOP;
    IF NOT v_mine THEN
        RAISE EXCEPTION 'worker "%" is registered by another session', worker
            USING ERRCODE = 'PGQ03',
                  HINT = 'Use another name; after a lost connection, try again when the server has noticed the loss.';
    END IF;
END
$pgq_register$;

COMMENT ON FUNCTION pgq_register(text, text[], text, bigint, text[], boolean) IS
    'Register a worker, which is then present for as long as this session lives. Run nothing in the session that '
    'takes long: while a statement runs, the server does not notice that the client is gone. Returns nothing. If the '
    'session ends without pgq_unregister, the next claims of other sessions, usually within two seconds, end the '
    'leases on jobs that were claimed under the name (the argument worker of pgq_claim). The name must belong to one '
    'process: registering it again in a new session brings the worker back with its jobs. host and pid are shown in '
    'pgq_workers; NULL means unknown. kinds are those that the worker has handlers for: so pgq_stats shows which '
    'kinds no worker handles; NULL means that the worker does not tell. shares says that the process of the worker '
    'also serves other databases: where it is lost with a single job of this one, that counts as a loss together with '
    'others. NULL for worker, queues or shares, or one of the queues or kinds, raises 22004. A worker that finds its '
    'queues by pgq_queues_to_serve registers those that it knows, perhaps none, and registers again in the same '
    'session when it knows more. Raises PGQ03 while another session has the name, or if a role with other queues has '
    'registered it; 22023 for a bad value, 42501 for a queue that the calling role may not use.';


CREATE FUNCTION pgq_unregister(worker text) RETURNS boolean
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_unregister$
DECLARE
    v_number integer;
BEGIN
    PERFORM _pgq_refuse_in_maintenance();

    DELETE FROM pgq_worker_session AS w
    WHERE w.name = pgq_unregister.worker
      AND EXISTS (SELECT FROM _pgq_presence AS p WHERE p.number = w.number AND p.pid = pg_backend_pid())
    RETURNING w.number INTO v_number;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    RETURN pg_advisory_unlock('pgq_worker_session'::regclass::oid::integer, v_number);
END
$pgq_unregister$;

COMMENT ON FUNCTION pgq_unregister(text) IS
    'Remove a worker that stops; jobs that it still holds keep their leases. Returns true, or false if this session '
    'has not registered the worker, or for NULL.';


-- It waits for no running job. Jobs go back as pgq_enqueue_many enqueues: first those without a twin, in the order in
-- which it inserts, then the others into their twins, in the order of signatures; so the two do not deadlock. The
-- lock_timeout of the session limits each wait for a twin that is not committed yet, as in the other calls.
CREATE FUNCTION pgq_reconcile(worker text, ids bigint[], tokens bigint[]) RETURNS bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_reconcile$
DECLARE
    v_allowed text[] := _pgq_allowed_queues('worker');
    v_job pgq_running;
    v_merging pgq_running[] := '{}';
    v_count bigint := 0;
BEGIN
    PERFORM _pgq_check_pairs(ids, tokens);
    IF NOT EXISTS (
        SELECT FROM pgq_worker_session AS w JOIN _pgq_presence AS p USING (number)
        WHERE w.name = pgq_reconcile.worker AND p.pid = pg_backend_pid()
    ) THEN
        RAISE EXCEPTION 'worker "%" is not registered by this session', worker
            USING ERRCODE = 'PGQ03',
                  HINT = 'Call pgq_register first, in the same session.';
    END IF;

    PERFORM _pgq_unpack(ARRAY(
        SELECT b.token
        FROM pgq_running_batch AS b
        WHERE b.worker = pgq_reconcile.worker
          AND EXISTS (
              SELECT
              FROM unnest(b.ids, b.queues) AS j (id, queue)
              WHERE j.id <> ALL (b.gone)
                AND NOT EXISTS (SELECT FROM unnest(pgq_reconcile.ids, tokens) AS known (id, token)
                                WHERE known.id = j.id AND known.token = b.token)
                AND (v_allowed IS NULL OR j.queue = ANY (v_allowed))
          )
        FOR UPDATE SKIP LOCKED));
    FOR v_job IN
        SELECT r.*
        FROM pgq_running AS r
        WHERE r.worker = pgq_reconcile.worker
          AND NOT EXISTS (
              SELECT FROM unnest(ids, tokens) AS known (id, token) WHERE known.id = r.id AND known.token = r.token)
          AND (v_allowed IS NULL OR r.queue = ANY (v_allowed))
        ORDER BY hashtextextended(coalesce(r.dedup_key, r.args::text), 0), r.kind, r.queue, r.id
        FOR UPDATE SKIP LOCKED
    LOOP
        DELETE FROM pgq_running AS r WHERE r.id = v_job.id;
        IF _pgq_requeue(v_job, v_job.ripe_at, v_job.attempt - 1, merge => false) IS NULL THEN
            v_merging := v_merging || v_job;
        END IF;
        v_count := v_count + 1;
    END LOOP;
    FOR v_job IN
        SELECT m.* FROM unnest(v_merging) AS m ORDER BY _pgq_signature(m.queue, m.kind, m.args, m.dedup_key), m.id
    LOOP
        PERFORM _pgq_requeue(v_job, v_job.ripe_at, v_job.attempt - 1);
    END LOOP;
    RETURN v_count;
END
$pgq_reconcile$;

COMMENT ON FUNCTION pgq_reconcile(text, bigint[], bigint[]) IS
    'Give back the jobs that were claimed under the name of a worker but are not among these ids and tokens, as '
    'pgq_release does. Returns how many. It is for a worker whose connection was lost during a claim; call it only '
    'while no claim under the name is in progress. NULL for ids or tokens raises 22004. Raises PGQ03 if this session '
    'has not registered the worker, or for NULL; 2202E for arrays of different lengths.';
