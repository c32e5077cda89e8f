-- For tests only: assertions for pgTAP. Load this after pgq's SQL, testkit.sql and pgTAP, with the schemas of both on the
-- search path. Every role sees all jobs through these functions, so that no assertion passes because its role lacks a
-- privilege.
--
-- A job is named by its kind, what its args contain (as the operator @> has it) and its queue; NULL: any.

CREATE OR REPLACE FUNCTION _pgq_tap_jobs(kind text, args jsonb, queue text) RETURNS SETOF pgq_jobs
    LANGUAGE sql
    STABLE
    SECURITY DEFINER
    SET search_path FROM CURRENT
    AS $_pgq_tap_jobs$
    SELECT j.*
    FROM pgq_jobs AS j
    WHERE (_pgq_tap_jobs.kind IS NULL OR j.kind = _pgq_tap_jobs.kind)
      AND (_pgq_tap_jobs.args IS NULL OR j.args @> _pgq_tap_jobs.args)
      AND (_pgq_tap_jobs.queue IS NULL OR j.queue = _pgq_tap_jobs.queue)
    ORDER BY j.id
$_pgq_tap_jobs$;

-- Return what an assertion is about, such as: job of kind mail with {"to": "bob"} in queue slow.
CREATE OR REPLACE FUNCTION _pgq_tap_name(kind text, args jsonb, queue text) RETURNS text
    LANGUAGE sql
    IMMUTABLE
    RETURN 'job' || coalesce(' of kind ' || kind, '') || coalesce(' with ' || args::text, '')
           || coalesce(' in queue ' || queue, '');

-- Return lines that show the first ten of these jobs, and the newest error of each.
CREATE OR REPLACE FUNCTION _pgq_tap_lines(jobs pgq_jobs[]) RETURNS text
    LANGUAGE sql
    STABLE
    AS $_pgq_tap_lines$
    SELECT coalesce(string_agg(line, E'\n' ORDER BY number), '  no job')
    FROM (
        SELECT number,
               format('  %s %s %s: %s in queue %s, ripe at %s, attempt %s', j.id, j.kind, left(j.args::text, 500),
                      j.state, j.queue, j.ripe_at, j.attempt)
               || coalesce(E'\n    ' || left(split_part(j.errors -> 0 ->> 'error', E'\n', 1), 500), '') AS line
        FROM generate_subscripts(jobs, 1) AS number
        CROSS JOIN LATERAL (SELECT (jobs[number]).*) AS j
        WHERE number <= 10
        UNION ALL
        SELECT 11, format('  and %s more', cardinality(jobs) - 10)
        WHERE cardinality(jobs) > 10
    ) AS shown
$_pgq_tap_lines$;

-- Return an assertion; where it fails, its diagnostics show these jobs below a heading.
CREATE OR REPLACE FUNCTION _pgq_tap_ok(passes boolean, description text, heading text, jobs pgq_jobs[]) RETURNS text
    LANGUAGE sql
    VOLATILE
    SET search_path FROM CURRENT
    AS $_pgq_tap_ok$
    SELECT ok(passes, description)
           || CASE WHEN passes THEN '' ELSE E'\n' || diag(heading || E':\n' || _pgq_tap_lines(jobs)) END
$_pgq_tap_ok$;

-- Pass if a job waits, ripe or not, or is blocked by others.
CREATE OR REPLACE FUNCTION pgq_enqueued_ok(
    kind text, args jsonb DEFAULT NULL, queue text DEFAULT NULL, description text DEFAULT NULL
) RETURNS text
    LANGUAGE plpgsql
    VOLATILE
    SET search_path FROM CURRENT
    AS $pgq_enqueued_ok$
DECLARE
    v_found bigint;
    v_others pgq_jobs[];
BEGIN
    SELECT count(*) INTO v_found
    FROM _pgq_tap_jobs(kind, args, queue) AS j
    WHERE j.state IN ('waiting', 'blocked');
    SELECT array_agg(j ORDER BY j.kind IS DISTINCT FROM pgq_enqueued_ok.kind, j.id) INTO v_others
    FROM _pgq_tap_jobs(NULL, NULL, NULL) AS j;
    RETURN _pgq_tap_ok(
        v_found > 0,
        coalesce(description, 'a ' || _pgq_tap_name(kind, args, queue) || ' waits'),
        'no ' || _pgq_tap_name(kind, args, queue) || ' waits; all jobs',
        v_others);
END
$pgq_enqueued_ok$;

-- Pass if no such job waits or is blocked.
CREATE OR REPLACE FUNCTION pgq_not_enqueued_ok(
    kind text DEFAULT NULL, args jsonb DEFAULT NULL, queue text DEFAULT NULL, description text DEFAULT NULL
) RETURNS text
    LANGUAGE plpgsql
    VOLATILE
    SET search_path FROM CURRENT
    AS $pgq_not_enqueued_ok$
DECLARE
    v_found pgq_jobs[];
BEGIN
    SELECT array_agg(j ORDER BY j.id) INTO v_found
    FROM _pgq_tap_jobs(kind, args, queue) AS j
    WHERE j.state IN ('waiting', 'blocked');
    RETURN _pgq_tap_ok(
        v_found IS NULL,
        coalesce(description, 'no ' || _pgq_tap_name(kind, args, queue) || ' waits'),
        'what waits',
        v_found);
END
$pgq_not_enqueued_ok$;

-- Pass if exactly one such job waits or is blocked, and its ripe_at is this time.
CREATE OR REPLACE FUNCTION pgq_ripe_at_is(
    kind text, ripe_at timestamptz, args jsonb DEFAULT NULL, queue text DEFAULT NULL, description text DEFAULT NULL
) RETURNS text
    LANGUAGE plpgsql
    VOLATILE
    SET search_path FROM CURRENT
    AS $pgq_ripe_at_is$
DECLARE
    v_found pgq_jobs[];
    v_name text := _pgq_tap_name(kind, args, queue);
BEGIN
    SELECT array_agg(j ORDER BY j.id) INTO v_found
    FROM _pgq_tap_jobs(kind, args, queue) AS j
    WHERE j.state IN ('waiting', 'blocked');
    RETURN _pgq_tap_ok(
        coalesce(cardinality(v_found) = 1 AND v_found[1].ripe_at = pgq_ripe_at_is.ripe_at, false),
        coalesce(description, format('the %s is ripe at %s', v_name, ripe_at)),
        format('one %s should be ripe at %s; what waits', v_name, ripe_at),
        v_found);
END
$pgq_ripe_at_is$;

-- Pass if no job of the queue, or of any, is ripe or runs: a worker with --drain would end.
CREATE OR REPLACE FUNCTION pgq_drained_ok(queue text DEFAULT NULL, description text DEFAULT NULL) RETURNS text
    LANGUAGE plpgsql
    VOLATILE
    SET search_path FROM CURRENT
    AS $pgq_drained_ok$
DECLARE
    v_left pgq_jobs[];
    v_now timestamptz := pgq_now();
BEGIN
    SELECT array_agg(j ORDER BY j.id) INTO v_left
    FROM _pgq_tap_jobs(NULL, NULL, queue) AS j
    WHERE j.state = 'running' OR j.state = 'waiting' AND j.ripe_at <= v_now;
    RETURN _pgq_tap_ok(
        v_left IS NULL,
        coalesce(description, 'no ' || _pgq_tap_name(NULL, NULL, queue) || ' is ripe or runs'),
        format('it is %s; what is ripe or runs', v_now),
        v_left);
END
$pgq_drained_ok$;

-- Pass if such a job is dead, and its newest error contains this text; NULL: any error.
CREATE OR REPLACE FUNCTION pgq_dead_ok(
    kind text, args jsonb DEFAULT NULL, error text DEFAULT NULL, queue text DEFAULT NULL,
    description text DEFAULT NULL
) RETURNS text
    LANGUAGE plpgsql
    VOLATILE
    SET search_path FROM CURRENT
    AS $pgq_dead_ok$
DECLARE
    v_found pgq_jobs[];
    v_name text := _pgq_tap_name(kind, args, queue) || ' is dead' || coalesce(' of ' || quote_literal(error), '');
BEGIN
    SELECT array_agg(j ORDER BY j.id) INTO v_found
    FROM _pgq_tap_jobs(kind, args, queue) AS j;
    RETURN _pgq_tap_ok(
        EXISTS (
            SELECT
            FROM unnest(v_found) AS j
            WHERE j.state = 'dead'
              AND (pgq_dead_ok.error IS NULL OR strpos(j.errors -> 0 ->> 'error', pgq_dead_ok.error) > 0)),
        coalesce(description, 'a ' || v_name),
        format('no %s; all such jobs', v_name),
        v_found);
END
$pgq_dead_ok$;

-- Stop the clock of pgq in this transaction, and move it by this much; return a line that says what time it is.
CREATE OR REPLACE FUNCTION pgq_travel(by interval) RETURNS text
    LANGUAGE sql
    VOLATILE
    SET search_path FROM CURRENT
    RETURN diag('it is ' || set_config('pgq.now', (pgq_now() + by)::text, true));
