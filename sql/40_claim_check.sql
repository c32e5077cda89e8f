-- Check the arguments of pgq_claim, and of the other calls that take the queues or the lease of a worker.

CREATE FUNCTION _pgq_lease_end(at timestamptz, lease interval) RETURNS timestamptz
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_lease_end$
BEGIN
    IF lease IS NULL THEN
        RAISE EXCEPTION 'lease is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Give the interval after which another worker may take the job, unless the lease is extended.';
    END IF;
    IF NOT _pgq_is_in_range(lease, at, '1 year') OR at + lease = at THEN
        RAISE EXCEPTION 'lease % is out of range', lease
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give an interval of more than 0 and at most 1 year.';
    END IF;
    RETURN at + lease;
END
$_pgq_lease_end$;

COMMENT ON FUNCTION _pgq_lease_end(timestamptz, interval) IS
    'Return when a lease that begins at a time ends. Raises 22004 for a NULL lease, 22023 for one that is zero, '
    'negative or longer than a year.';


-- What is true of most claims. It spares them the calls of the two functions beside it, whose many expressions
-- PostgreSQL prepares anew in each transaction. An expression, so that PostgreSQL inlines it; array_position refuses an
-- array of two dimensions.
CREATE FUNCTION _pgq_is_usual_claim(
    queues text[],
    max_jobs bigint,
    lease interval,
    worker text,
    max_bytes bigint,
    at timestamptz,
    allowed text[]
) RETURNS boolean
    LANGUAGE sql
    STABLE
    RETURN array_ndims(queues) = 1 AND array_position(queues, NULL) IS NULL
        AND max_jobs BETWEEN 0 AND 10000
        AND (_pgq_is_in_range(lease, at, '1 year') AND at + lease > at) IS NOT FALSE
        AND octet_length(coalesce(worker, '')) <= 200
        AND max_bytes > 0
        AND (allowed IS NULL OR (cardinality(queues) <= 16 AND queues <@ allowed));

COMMENT ON FUNCTION _pgq_is_usual_claim(text[], bigint, interval, text, bigint, timestamptz, text[]) IS
    'Return true for valid arguments of a claim at a time, from queues that are allowed, or any if these are NULL; '
    'false or NULL for any others, and for some valid ones.';


CREATE FUNCTION _pgq_check_claim(
    queues text[],
    max_jobs bigint,
    worker text,
    max_bytes bigint DEFAULT 16777216
) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_check_claim$
DECLARE
    v_allowed text[] := _pgq_allowed_queues('worker');
    v_denied text;
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
    IF max_bytes IS NULL THEN
        RAISE EXCEPTION 'max_bytes is null'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Leave the argument out for the default, 16 MiB.';
    END IF;
    IF max_bytes < 1 THEN
        RAISE EXCEPTION 'max_bytes % is out of range', max_bytes
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give a number of bytes from 1 on; the first job is claimed however large it is.';
    END IF;
    IF octet_length(worker) > 200 THEN
        RAISE EXCEPTION 'worker takes % bytes, more than 200', octet_length(worker)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Give the worker a shorter name.';
    END IF;
    -- The operator <@ compares each queue with each allowed one; EXCEPT makes a hash table of them.
    IF v_allowed IS NOT NULL AND (cardinality(queues) > 16 OR NOT queues <@ v_allowed) THEN
        SELECT q INTO v_denied FROM unnest(queues) AS q EXCEPT SELECT unnest(v_allowed) LIMIT 1;
        IF FOUND THEN
            PERFORM _pgq_raise_denied(v_denied, 'worker');
        END IF;
    END IF;
END
$_pgq_check_claim$;

COMMENT ON FUNCTION _pgq_check_claim(text[], bigint, text, bigint) IS
    'Check arguments of pgq_claim. Returns nothing. Raises 22004 for NULL queues, a NULL among them, or NULL max_jobs '
    'or max_bytes; 22023 for a value out of range; 42501 for a queue that the calling role may not use.';


CREATE FUNCTION _pgq_distinct(queues text[]) RETURNS text[]
    LANGUAGE sql
    STABLE
    RETURN ARRAY(
        SELECT q.name COLLATE "C"
        FROM unnest(queues) WITH ORDINALITY AS q (name, n)
        GROUP BY q.name COLLATE "C"
        ORDER BY min(q.n)
    );

COMMENT ON FUNCTION _pgq_distinct(text[]) IS
    'Return each of these queues once, in the order of their first places.';
