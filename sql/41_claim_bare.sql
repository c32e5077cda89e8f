-- When a claim has nothing to do but to claim.
--
-- Most claims find that no maintenance is due and that no head is known in any of their queues. What tells them costs
-- more than the scan of an empty lane, so a session that has found this keeps until when it holds, in one setting for
-- all of its queues: until the next maintenance, and for ten seconds at most. Until then its claims are bare: they do
-- no maintenance, and begin at the start of each lane. They count what they read, as all claims do, and the first one
-- that is long ends this. A claim that rolls back restores the setting of before, as it does with the heads.
--
-- Any role can set it. So a forged value may put off the maintenance of this session, and make it scan from the start,
-- for ten seconds; it hides no job.

CREATE FUNCTION _pgq_bare_setting() RETURNS text
    LANGUAGE sql
    STABLE
    RETURN 'pgq.bare_' || 'pgq_head'::regclass::oid;

COMMENT ON FUNCTION _pgq_bare_setting() IS
    'Return the name of the setting in which a session keeps until when its claims are bare.';


-- The value is a digest of the queues, a space, and a time, which has 16 digits until the year 2286. So the order of
-- bytes compares the times, and no damaged value can raise an error.
CREATE FUNCTION _pgq_is_bare(digest text, at_us bigint) RETURNS boolean
    LANGUAGE sql
    STABLE
    RETURN (current_setting(_pgq_bare_setting(), true) COLLATE "C")
           BETWEEN digest || ' ' || at_us + 1 AND digest || ' ' || at_us + 10000000;

COMMENT ON FUNCTION _pgq_is_bare(text, bigint) IS
    'Return whether a claim from the queues with this digest is bare at a time, in microseconds since 1970; NULL if '
    'the session has kept nothing.';


-- The number tells a list that names a queue twice from the list that names it once.
CREATE FUNCTION _pgq_digest(queues text[]) RETURNS text
    LANGUAGE sql
    IMMUTABLE
    RETURN (
        SELECT cardinality(queues) || ' ' || bit_xor(hashtextextended(q COLLATE "C", 0))
        FROM unnest(queues) AS q
    );

COMMENT ON FUNCTION _pgq_digest(text[]) IS
    'Return a digest of a list of queues, which is the same in each order.';
