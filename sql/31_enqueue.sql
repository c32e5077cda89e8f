-- Enqueue one job, in the caller's transaction.

CREATE FUNCTION pgq_enqueue(
    kind text,
    args jsonb DEFAULT '{}',
    queue text DEFAULT 'default',
    ripe_at timestamptz DEFAULT NULL,
    delay interval DEFAULT NULL,
    priority bigint DEFAULT 5,
    max_retries bigint DEFAULT 10,
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
    v_allowed text[] := _pgq_allowed_queues('producer');
    v_id bigint;
    v_ripe_at timestamptz;
    v_priority bigint := coalesce(priority, 5);
    v_signature uuid;
    v_awake boolean;
    v_problem text[] := _pgq_validate(
        kind, args, queue, ripe_at, delay, priority, max_retries, backoff, backoff_cap, dedup_key, on_duplicate,
        context, v_now);
BEGIN
    IF v_problem IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = v_problem[1], MESSAGE = v_problem[2], HINT = v_problem[3];
    END IF;
    IF queue <> ALL (v_allowed) THEN
        PERFORM _pgq_raise_denied(queue, 'producer');
    END IF;
    v_id := nextval('pgq_job_id');
    v_ripe_at := coalesce(ripe_at, v_now + delay, v_now);

    -- One pass, unless a worker claims the twin between the two statements: then the job is new after all.
    LOOP
        INSERT INTO pgq_waiting (
            id, queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, dedup_key,
            enqueued_at, errors, context, losses
        )
        VALUES (
            v_id, queue, kind, args, v_priority, v_ripe_at, 0, coalesce(max_retries, 10), coalesce(backoff, '1 minute'),
            coalesce(backoff_cap, '1 hour'), coalesce(dedup, true), dedup_key, v_now, '[]', context,
            NULL
        )
        ON CONFLICT (signature) DO NOTHING;

        IF FOUND THEN
            pgq_enqueue.id := v_id;
            created := true;
            -- An assignment, because a PERFORM would cost one more statement.
            v_awake := NOT _pgq_is_soon(v_ripe_at, v_now) OR NOT _pgq_wake(queue, (v_ripe_at <= v_now)::integer);
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

        -- A claim skips locked rows: the twin starts after this transaction has committed, so that its handler sees
        -- what this transaction has written.
        SELECT w.id INTO pgq_enqueue.id
        FROM pgq_waiting AS w
        WHERE w.signature = v_signature
        FOR KEY SHARE;

        IF FOUND THEN
            IF on_duplicate = 'error' THEN
                RAISE EXCEPTION 'job % is waiting already with this signature', id
                    USING ERRCODE = 'PGQ04',
                          HINT = 'Use on_duplicate => ''keep'' to get the id of that job instead.';
            END IF;
            created := false;
            v_awake := NOT _pgq_is_soon(v_ripe_at, v_now) OR on_duplicate = 'keep'
                       OR NOT _pgq_wake(queue, (v_ripe_at <= v_now)::integer);
            RETURN;
        END IF;
    END LOOP;
END
$pgq_enqueue$;

COMMENT ON FUNCTION pgq_enqueue(
    text, jsonb, text, timestamptz, interval, bigint, bigint, interval, interval, boolean, text, text, jsonb
) IS
    'Enqueue a job in the transaction of the caller. Returns its id and created = true. If a job with the same queue, '
    'kind and dedup_key (or args, without a key) is already waiting, locks that job until the end of the transaction, '
    'and returns its id and created = false. on_duplicate then decides: keep leaves the waiting job as it is, so that '
    'one in backoff after a failure runs when that is over; replace gives it the new args, ripe_at and priority, '
    'soonest gives it the earlier ripe_at, error raises PGQ04. None of them changes its attempts and errors. With '
    'dedup false the job is always created, and no later job is a duplicate of it. ripe_at or delay, not both, says '
    'when the job is ripe; priority 0 is claimed first, 9 last. context is a JSON object that the worker gets beside '
    'args, such as a trace to continue; it has no part in what makes duplicates. NULL for both ripe_at and delay means '
    'now. NULL for dedup_key means that args decide. NULL for kind, args or queue raises 22004; any other NULL means '
    'the default. Raises 22023 or 22008 for a bad value, 54000 for args of more than 1 MiB as text, 42501 for a queue '
    'that the calling role may not use.';
