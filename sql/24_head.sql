-- Where the live jobs of a queue begin, for sessions that have not scanned its lanes themselves.
--
-- A row is only a hint: a session that finds it missing, old or wrong scans the lanes, and after a crash the table is
-- empty. Rows are inserted and deleted, but never updated. So no session waits for another, and the newest row is the
-- first in its index, however many dead ones a snapshot keeps. The section "Heads" of docs/design.md draws a lane.

-- A place in a lane is the ripe_at and the id of a job. Here ripe_at is in microseconds since 1970: a session keeps its
-- heads as text, and the text of a timestamptz depends on DateStyle and TimeZone.
CREATE TYPE _pgq_lane_head AS (
    priority     smallint,
    here_ripe_us bigint,
    here_id      bigint,
    next_ripe_us bigint,
    next_id      bigint
);

COMMENT ON TYPE _pgq_lane_head IS 'The head of one lane of a queue.';
COMMENT ON COLUMN _pgq_lane_head.priority IS 'The priority of the jobs in this lane of the queue.';
COMMENT ON COLUMN _pgq_lane_head.here_ripe_us IS
    'A claim begins after this place; its ripe_at in microseconds since 1970.';
COMMENT ON COLUMN _pgq_lane_head.here_id IS 'The id of the job at that place.';
COMMENT ON COLUMN _pgq_lane_head.next_ripe_us IS
    'The head moves to this place next; its ripe_at in microseconds since 1970.';
COMMENT ON COLUMN _pgq_lane_head.next_id IS 'The id of the job at that place, or 0.';


CREATE UNLOGGED TABLE pgq_head (
    queue        text COLLATE "C" NOT NULL,
    due          timestamptz      NOT NULL,
    rescan_delay interval         NOT NULL,
    lanes        _pgq_lane_head[] NOT NULL
);

CREATE INDEX pgq_head_due ON pgq_head (queue, due);

COMMENT ON TABLE pgq_head IS 'Where the live jobs of a queue begin, as the last long scan of its lanes found it.';
COMMENT ON COLUMN pgq_head.queue IS
    'The queue, or with U+001F and a number after it, a group of it. Empty for the search for expired leases, and '
    'U+001F for the tokens; neither has lanes. U+001F and "kept" before the name of a queue: a claim has found the lock '
    'of its long scan taken. U+001F and "ended", "seen", "batches" or "count": how far the deletion of old jobs, of '
    'windows and of batches, and the folding of counts, have come.';
COMMENT ON COLUMN pgq_head.due IS
    'From when on a claim may scan the lanes from their start again; for the tokens, from when on a worker may count '
    'as gone.';
COMMENT ON COLUMN pgq_head.rescan_delay IS
    'The least time between two such scans, in proportion to the cost of the last.';
COMMENT ON COLUMN pgq_head.lanes IS
    'The heads of the lanes that are known; a lane that is missing is scanned from its start.';
