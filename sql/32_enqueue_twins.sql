-- What the duplicates in an array do to the jobs that wait already.

-- Several duplicates of one job fold into one change: the last "replace" counts, and each "soonest" after it. Changed in
-- the order of signatures, and found by them: no other index begins with the signature, so no statistics can mislead.
CREATE FUNCTION _pgq_change_twins(jobs pgq_waiting[], policies text[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
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
