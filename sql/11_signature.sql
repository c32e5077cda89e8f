-- What makes two jobs twins.

-- The generated column pgq_waiting.signature calls this: another body would leave the stored values of the
-- rows that are waiting behind, and their twins would no longer be found.
--
-- The separators make the text unambiguous, because _pgq_validate refuses them in queue and kind; 'a' and 'k'
-- keep a key from passing for arguments. The queue takes part so that nobody can suppress the jobs of a queue
-- by planting their twins in another one.
CREATE FUNCTION _pgq_signature(queue text, kind text, args jsonb, dedup_key text) RETURNS uuid
    LANGUAGE sql
    IMMUTABLE
    RETURN md5(
        queue || E'\x1f' || kind || E'\x1f' || CASE WHEN dedup_key IS NULL THEN 'a' || args::text ELSE 'k' || dedup_key END
    )::uuid;

COMMENT ON FUNCTION _pgq_signature(text, text, jsonb, text) IS
    'What makes two jobs twins: MD5 over queue, kind, and the dedup key or else the arguments.';
