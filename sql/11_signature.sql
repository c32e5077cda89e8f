-- The signature: what makes two jobs twins.

-- The generated column pgq_waiting.signature calls this function. A changed body would leave the stored signatures of
-- waiting jobs as they are, and their twins would no longer be found.
--
-- The separators make the text unambiguous, because _pgq_validate refuses them in queue and kind; the letters a and k
-- keep a key from being mistaken for args. The queue is part of it so that no role can suppress the jobs of a queue by
-- planting their twins in another one.
CREATE FUNCTION _pgq_signature(queue text, kind text, args jsonb, dedup_key text) RETURNS uuid
    LANGUAGE sql
    IMMUTABLE
    RETURN md5(
        queue || E'\x1f' || kind || E'\x1f'
        || CASE WHEN dedup_key IS NULL THEN 'a' || args::text ELSE 'k' || dedup_key END
    )::uuid;

COMMENT ON FUNCTION _pgq_signature(text, text, jsonb, text) IS
    'Return what makes two jobs twins: the MD5 over queue, kind and dedup_key, or over queue, kind and args if '
    'dedup_key is NULL.';
