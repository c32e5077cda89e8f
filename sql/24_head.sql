-- Where the live jobs of a queue begin, for sessions that have not looked themselves.
--
-- A hint and nothing more: a session that finds it missing, old or wrong looks for itself, and after a crash the table is
-- empty. Rows are added and old ones removed, but never changed: so nobody waits for anybody, and the newest row is the
-- first in its index, however many dead ones a snapshot keeps.

CREATE UNLOGGED TABLE pgq_head (
    queue text        NOT NULL,
    due   timestamptz NOT NULL,
    pause interval    NOT NULL,
    here  bigint[]    NOT NULL,
    next  bigint[]    NOT NULL
);

CREATE INDEX pgq_head_due ON pgq_head (queue, due);

COMMENT ON TABLE pgq_head IS 'Where the live jobs of a queue begin, as the last long scan of its lanes found it.';
COMMENT ON COLUMN pgq_head.queue IS 'The queue; empty for the search for expired leases, which has no lanes.';
COMMENT ON COLUMN pgq_head.due IS 'When such a scan may be made again.';
COMMENT ON COLUMN pgq_head.pause IS 'How far apart such scans are to be, in proportion to what the last one cost.';
COMMENT ON COLUMN pgq_head.here IS
    'For each priority two numbers, ripe_at in microseconds since 1970 and id: live jobs come after; NULL where unknown.';
COMMENT ON COLUMN pgq_head.next IS 'Where the head of each lane moves next, likewise.';
