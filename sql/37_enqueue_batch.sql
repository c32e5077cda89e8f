-- Enqueue many jobs and the one that comes after them, and add to these later.

-- For the batches of one call. A job that has failed is in pgq_need as well if it has done so just now: then it counts
-- when the need is met. One that has failed as a job of the batch has been counted.
CREATE FUNCTION _pgq_count_added(batches bigint[], queues text[], jobs bigint[], added bigint[], at timestamptz)
    RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_count_added$
BEGIN
    INSERT INTO pgq_batch (id, queue, jobs, failed, given_up, at)
    SELECT b.id, b.queue, b.jobs + cardinality(f.ids), f.ids, 0, at
    FROM unnest(batches, queues, jobs) AS b (id, queue, jobs)
    CROSS JOIN LATERAL (
        SELECT ARRAY(
            SELECT e.id
            FROM pgq_ended AS e
            WHERE e.id = ANY (added)
              AND e.outcome <> 'done'
              AND (SELECT true FROM pgq_need AS n WHERE n.job = b.id AND n.needs = e.id) IS NULL
              AND (SELECT true FROM pgq_batch AS o WHERE o.id = b.id AND e.id = ANY (o.failed) LIMIT 1) IS NULL)
    ) AS f (ids);
END
$_pgq_count_added$;

COMMENT ON FUNCTION _pgq_count_added(bigint[], text[], bigint[], bigint[], timestamptz) IS
    'Record that jobs were added to batches in these queues: how many are new to each of those that are not over, and '
    'which have failed already. Those that are done already do not count. Returns nothing.';


CREATE FUNCTION pgq_enqueue_batch(
    kind text,
    args jsonb,
    jobs jsonb,
    queue text DEFAULT 'default',
    priority bigint DEFAULT 5,
    max_retries bigint DEFAULT NULL,
    backoff interval DEFAULT NULL,
    backoff_cap interval DEFAULT NULL,
    context jsonb DEFAULT NULL,
    group_key text DEFAULT NULL,
    OUT id bigint,
    OUT ids bigint[]
)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
AS $pgq_enqueue_batch$
DECLARE
    v_number bigint;
BEGIN
    ids := ARRAY(SELECT m.id FROM pgq_enqueue_many(jobs) AS m ORDER BY m.n);
    SELECT e.id INTO id
    FROM pgq_enqueue(
        kind, args, queue, priority => priority, max_retries => max_retries, backoff => backoff,
        backoff_cap => backoff_cap, dedup => false, context => context, group_key => group_key, after => ids,
        after_failed => 'run') AS e;
    v_number := (SELECT count(*) FROM pgq_need AS n WHERE n.job = pgq_enqueue_batch.id);
    PERFORM _pgq_count_added(ARRAY[id], ARRAY[queue], ARRAY[v_number], ids, pgq_now());
END
$pgq_enqueue_batch$;

COMMENT ON FUNCTION pgq_enqueue_batch(
    text, jsonb, jsonb, text, bigint, bigint, interval, interval, jsonb, text
) IS
    'Enqueue a batch: an array of jobs, as for pgq_enqueue_many, and a job that comes after all of them, whatever has '
    'become of each. Returns the id of that job, which is the id of the batch, and the ids of the others, in the '
    'order of the array. The other arguments are those of that job, as in pgq_enqueue; it is never a duplicate. Until '
    'all others are over it is blocked; after an empty array it waits at once. pgq_batch_progress says how many have '
    'failed, and which. A job that was waiting already belongs to the batch like the others, and one that has failed '
    'already counts as failed; one that is done already, a duplicate within a window, does not belong to it. Raises '
    'what pgq_enqueue_many and pgq_enqueue do.';


-- The running job is locked, so its need stays until the end of the transaction, and the batch is not over before. No
-- lock on the batch is needed, for which the completions of its jobs would wait.
CREATE FUNCTION pgq_add_to_batch(id bigint, token bigint, jobs jsonb) RETURNS bigint[]
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $pgq_add_to_batch$
DECLARE
    v_batches bigint[];
    v_queues text[];
    v_numbers bigint[];
    v_ids bigint[];
    v_given bigint[];
    v_created bigint[];
    v_living bigint[];
BEGIN
    PERFORM pgq_hold(id, token);
    SELECT array_agg(b.id ORDER BY b.id), array_agg(b.queue ORDER BY b.id) INTO v_batches, v_queues
    FROM pgq_need AS n
    CROSS JOIN LATERAL (SELECT o.id, o.queue FROM pgq_batch AS o WHERE o.id = n.job LIMIT 1) AS b
    WHERE n.needs = pgq_add_to_batch.id;
    IF v_batches IS NULL THEN
        RAISE EXCEPTION 'no batch waits for job %', id
            USING ERRCODE = 'PGQ03',
                  HINT = 'Add jobs only from a running job of a batch that was not cancelled.';
    END IF;
    -- A job of the batch that waits for the batch would be a cycle.
    IF jsonb_path_exists(jobs, '$[*].after[*] ? (@.type() == "number")') THEN
        RAISE EXCEPTION 'a job that is added to a batch has an id in after'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Name only jobs of the same array, by their positions, such as "#1".';
    END IF;

    SELECT coalesce(array_agg(m.id ORDER BY m.n), '{}'), array_agg(m.id) FILTER (WHERE m.created)
    INTO v_given, v_created
    FROM pgq_enqueue_many(jobs) AS m;
    v_ids := ARRAY(SELECT DISTINCT g FROM unnest(v_given) AS g ORDER BY g);
    v_living := (_pgq_prerequisites(v_ids, NULL)).living;
    WITH added AS (
        INSERT INTO pgq_need (job, needs)
        SELECT b, l FROM unnest(v_batches) AS b CROSS JOIN unnest(v_living) AS l
        ON CONFLICT ON CONSTRAINT pgq_need_pkey DO NOTHING
        RETURNING job, needs
    )
    -- One that has failed as a job of the batch, and was retried, has been counted.
    SELECT array_agg((
               SELECT count(*)
               FROM added AS a
               WHERE a.job = b.id
                 AND (a.needs IN (SELECT c FROM unnest(v_created) AS c)
                      OR (SELECT true FROM pgq_batch AS o WHERE o.id = b.id AND a.needs = ANY (o.failed) LIMIT 1)
                         IS NULL)
           ) ORDER BY b.id)
    INTO v_numbers
    FROM unnest(v_batches) AS b (id);
    PERFORM _pgq_count_added(v_batches, v_queues, v_numbers, v_ids, pgq_now());
    RETURN v_given;
END
$pgq_add_to_batch$;

COMMENT ON FUNCTION pgq_add_to_batch(bigint, bigint, jsonb) IS
    'Enqueue an array of jobs, as for pgq_enqueue_many, and add them to the batch to which a running job belongs (see '
    'pgq_enqueue_batch), or to each if it belongs to several. Returns the ids, in the order of the array. after of '
    'these jobs may name only jobs of the same array. A job counts once, however often it is added; one that is done '
    'already, a duplicate within a window, does not count. Call it as the worker of the running job, which is locked '
    'until the end of the transaction, as by pgq_hold: the batch cannot be over before. Raises PGQ02 if the job is '
    'not held under this token, PGQ03 if no batch waits for it, and what pgq_enqueue_many does.';
