-- What the settings of queues mean for a claim.

CREATE FUNCTION _pgq_resumes_at(queues text[], at timestamptz) RETURNS timestamptz
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_resumes_at$
BEGIN
    RETURN (
        SELECT min(p.until)
        FROM unnest(queues) AS q (queue)
        JOIN pgq_paused AS p ON p.queue = q.queue COLLATE "C"
        WHERE _pgq_marks() & _pgq_mark_of(q.queue) <> 0
          AND p.until > at
          AND p.until < 'infinity'
    );
END
$_pgq_resumes_at$;

COMMENT ON FUNCTION _pgq_resumes_at(text[], timestamptz) IS
    'Return the first time after another at which the pause of one of these queues, or of a group of them, ends by '
    'itself; NULL if there is none.';
