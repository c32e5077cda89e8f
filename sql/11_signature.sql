-- The signature: what makes two jobs twins.

-- Each INSERT into pgq_waiting sets the column signature by this function, where the job has dedup. No UPDATE changes
-- what it is made of. A generated column would take a sixth of an enqueue, because PostgreSQL prepares its expression
-- anew for each statement. A body that returns another value would leave the signatures of waiting jobs as they are,
-- and their twins would no longer be found.
--
-- The separators make the text unambiguous, because _pgq_validate refuses them in queue and kind; the letters a and k
-- keep a key from being mistaken for args. The queue is part of it so that no role can suppress the jobs of a queue by
-- planting their twins in another one.
--
-- An expression, so that PostgreSQL inlines it.
CREATE FUNCTION _pgq_signature(queue text, kind text, args jsonb, dedup_key text) RETURNS uuid
    LANGUAGE sql
    IMMUTABLE
    RETURN md5(
        queue || E'\x1f' || kind || coalesce(E'\x1fk' || dedup_key, E'\x1fa' || args::text)
    )::uuid;

COMMENT ON FUNCTION _pgq_signature(text, text, jsonb, text) IS
    'Return what makes two jobs twins: the MD5 over queue, kind and dedup_key, or over queue, kind and args if '
    'dedup_key is NULL.';
