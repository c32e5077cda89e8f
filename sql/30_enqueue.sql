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
