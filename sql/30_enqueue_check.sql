-- Check the values of a job before it is enqueued.

-- What is true of most jobs, in few steps. PostgreSQL prepares an expression of PL/pgSQL anew in each transaction: the
-- one below takes a sixth of pgq_enqueue, _pgq_is_valid as much again, and _pgq_validate half. An expression, so that
-- PostgreSQL inlines it.
CREATE FUNCTION _pgq_is_common(
    kind text,
    args_as_text text,
    queue text,
    ripe_at timestamptz,
    delay interval,
    priority bigint,
    max_retries bigint,
    backoff interval,
    backoff_cap interval,
    dedup boolean,
    dedup_key text,
    on_duplicate text,
    context jsonb,
    group_key text,
    dedup_for interval,
    after bigint[],
    after_failed text
) RETURNS boolean
    LANGUAGE sql
    STABLE
    RETURN _pgq_is_name(kind) AND _pgq_is_name(queue)
        AND octet_length(args_as_text) <= 1048576
        AND num_nonnulls(
            ripe_at, delay, backoff, backoff_cap, context, group_key, dedup_for, after, after_failed) = 0
        AND (max_retries >> 31 = 0) IS NOT FALSE  -- neither negative nor more than 2147483647
        AND priority BETWEEN 0 AND 9
        AND dedup IS NOT NULL
        AND (octet_length(dedup_key) <= 1000) IS NOT FALSE
        AND on_duplicate = 'keep';

COMMENT ON FUNCTION _pgq_is_common(
    text, text, text, timestamptz, interval, bigint, bigint, interval, interval, boolean, text, text, jsonb, text,
    interval, bigint[], text
) IS
    'Return true for a valid job that leaves no value to a default but is ripe now, has the backoff of its queue, no '
    'context, no group and no window, waits for no other job, and keeps a twin as it is; otherwise false or NULL, '
    'whether it is valid or not.';


-- An expression, so that PostgreSQL inlines it, also in the check of a whole array in pgq_enqueue_many.
CREATE FUNCTION _pgq_is_valid(
    kind text,
    args_as_text text,
    queue text,
    ripe_at timestamptz,
    delay interval,
    priority bigint,
    max_retries bigint,
    backoff interval,
    backoff_cap interval,
    dedup boolean,
    dedup_key text,
    on_duplicate text,
    context jsonb,
    group_key text,
    dedup_for interval,
    at timestamptz
) RETURNS boolean
    LANGUAGE sql
    STABLE
    RETURN _pgq_is_name(kind) AND _pgq_is_name(queue)
        AND octet_length(args_as_text) <= 1048576
        AND (ripe_at IS NULL OR delay IS NULL)
        AND (ripe_at BETWEEN at - interval '100 years' AND at + interval '100 years') IS NOT FALSE
        AND _pgq_is_in_range(delay, at, '100 years') IS NOT FALSE
        AND (priority BETWEEN 0 AND 9) IS NOT FALSE
        AND (max_retries BETWEEN 0 AND 2147483647) IS NOT FALSE
        AND (backoff BETWEEN interval '0' AND interval '100 years') IS NOT FALSE
        AND (backoff_cap BETWEEN interval '0' AND interval '100 years') IS NOT FALSE
        AND (octet_length(dedup_key) <= 1000) IS NOT FALSE
        AND (on_duplicate IN ('keep', 'replace', 'soonest', 'error')) IS NOT FALSE
        AND (jsonb_typeof(context) = 'object' AND octet_length(context::text) <= 8192) IS NOT FALSE
        AND _pgq_is_name(group_key) IS NOT FALSE
        AND (dedup_for > interval '0' AND _pgq_is_in_range(dedup_for, at, '100 years')) IS NOT FALSE
        AND (dedup_for IS NULL OR dedup IS NOT FALSE);

COMMENT ON FUNCTION _pgq_is_valid(
    text, text, text, timestamptz, interval, bigint, bigint, interval, interval, boolean, text, text, jsonb, text,
    interval, timestamptz
) IS
    'Return true for the values of a job that may be enqueued; otherwise false or NULL: _pgq_validate then returns '
    'what is wrong with them.';


CREATE FUNCTION _pgq_validate(
    kind text,
    args jsonb,
    queue text,
    ripe_at timestamptz,
    delay interval,
    priority bigint,
    max_retries bigint,
    backoff interval,
    backoff_cap interval,
    dedup boolean,
    dedup_key text,
    on_duplicate text,
    context jsonb,
    group_key text,
    dedup_for interval,
    at timestamptz
) RETURNS text[]
    LANGUAGE sql
    STABLE
    RETURN CASE
        WHEN kind IS NULL THEN
            ARRAY['22004', 'kind is null', 'Name the kind of work, by which a worker finds its handler.']
        WHEN NOT _pgq_is_name(kind) THEN
            ARRAY['22023', format('kind "%s" is not a name', left(kind, 200)),
                  'Use 1 to 200 bytes without the character U+001F.']
        WHEN queue IS NULL THEN
            ARRAY['22004', 'queue is null', 'Name a queue, or leave the argument out for the queue "default".']
        WHEN NOT _pgq_is_name(queue) THEN
            ARRAY['22023', format('queue "%s" is not a name', left(queue, 200)),
                  'Use 1 to 200 bytes without the character U+001F.']
        WHEN args IS NULL THEN
            ARRAY['22004', 'args is null', 'Pass any JSON, such as {} or the JSON null, but not the SQL NULL.']
        WHEN octet_length(args::text) > 1048576 THEN
            ARRAY['54000', format('args take %s bytes as text, more than 1048576', octet_length(args::text)),
                  'Store large data in a table of your own and enqueue a reference to it.']
        WHEN ripe_at IS NOT NULL AND delay IS NOT NULL THEN
            ARRAY['22023', 'both ripe_at and delay are given',
                  'Give one of the two, or neither for a job that is ripe now.']
        WHEN ripe_at NOT BETWEEN at - interval '100 years' AND at + interval '100 years' THEN
            ARRAY['22008', format('ripe_at %s is out of range', ripe_at), 'Give a time within a hundred years of now.']
        WHEN NOT _pgq_is_in_range(delay, at, '100 years') THEN
            ARRAY['22023', format('delay %s is out of range', delay), 'Give an interval from 0 to 100 years.']
        WHEN priority NOT BETWEEN 0 AND 9 THEN
            ARRAY['22023', format('priority %s is out of range', priority), 'Give a number from 0 (first) to 9 (last).']
        WHEN max_retries NOT BETWEEN 0 AND 2147483647 THEN
            ARRAY['22023', format('max_retries %s is out of range', max_retries),
                  'Give a number from 0, for a single attempt, to 2147483647.']
        WHEN backoff NOT BETWEEN interval '0' AND interval '100 years' THEN
            ARRAY['22023', format('backoff %s is out of range', backoff), 'Give an interval from 0 to 100 years.']
        WHEN backoff_cap NOT BETWEEN interval '0' AND interval '100 years' THEN
            ARRAY['22023', format('backoff_cap %s is out of range', backoff_cap),
                  'Give an interval from 0 to 100 years.']
        WHEN octet_length(dedup_key) > 1000 THEN
            ARRAY['22023', format('dedup_key takes %s bytes, more than 1000', octet_length(dedup_key)),
                  'Use a digest of it instead.']
        WHEN on_duplicate NOT IN ('keep', 'replace', 'soonest', 'error') THEN
            ARRAY['22023', format('on_duplicate "%s" is unknown', left(on_duplicate, 200)),
                  'Use keep, replace, soonest or error.']
        WHEN jsonb_typeof(context) <> 'object' OR octet_length(context::text) > 8192 THEN
            ARRAY['22023', 'context is not an object of at most 8192 bytes',
                  'Pass a small JSON object, such as a trace to continue, or NULL.']
        WHEN NOT _pgq_is_name(group_key) THEN
            ARRAY['22023', format('group_key "%s" is not a name', left(group_key, 200)),
                  'Use 1 to 200 bytes without the character U+001F, or NULL for a job without a group.']
        WHEN NOT (dedup_for > interval '0' AND _pgq_is_in_range(dedup_for, at, '100 years')) THEN
            ARRAY['22023', format('dedup_for %s is out of range', dedup_for),
                  'Give an interval of more than 0 and at most 100 years, or NULL for no window.']
        WHEN dedup_for IS NOT NULL AND NOT dedup THEN
            ARRAY['22023', 'dedup_for is given, but dedup is false',
                  'Leave dedup out: a job without a signature has no duplicates.']
    END;

COMMENT ON FUNCTION _pgq_validate(
    text, jsonb, text, timestamptz, interval, bigint, bigint, interval, interval, boolean, text, text, jsonb, text,
    interval, timestamptz
) IS
    'Check the values of a job to be enqueued. Returns SQLSTATE, message and hint of the first error, or NULL for a '
    'valid job.';
