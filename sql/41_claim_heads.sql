-- How a claim gets past the entries of jobs that are gone.
--
-- The claim index keeps an entry of each claimed job until vacuum may remove it, and a snapshot that is held anywhere
-- forbids that. A claim that starts at the left end of its lanes walks over all of these entries. So once that walk is
-- long, a session remembers the head of each lane: where the live entries begin. A head moves in two steps, each time
-- to the place that the claim before had reached, so that a job that commits a little late is still to the right of it.
--
-- Some jobs are to the left of the head all the same: after a claim that rolled back, after a very late commit, or when
-- they were put back at their old place. A scan from the left end finds them. While the walk is short, each claim makes
-- that scan; otherwise all sessions together make one at a time, with pauses of twenty times its cost.
--
-- A session keeps its heads in a setting: that writes nothing, and a claim that rolls back takes its moves back. Any
-- role can set it, so a forged value must hurt no other session. The section "Heads" of docs/design.md draws a lane.

-- A hundred entries in vain cost about a tenth of a claim. Finding the start of a lane counts as twelve.
CREATE FUNCTION _pgq_is_long_scan(wasted bigint, lanes integer) RETURNS boolean
    LANGUAGE sql
    IMMUTABLE
    RETURN coalesce(wasted > 100 + 12 * lanes, true);

COMMENT ON FUNCTION _pgq_is_long_scan(bigint, integer) IS
    'Return whether a scan is worth avoiding, by the entries that it read in vain and the number of its lanes; NULL '
    'entries count as too many.';


-- The cost is counted in entries and not in time, which would grow with the load of the machine. Measured: five entries
-- take a microsecond.
CREATE FUNCTION _pgq_rescan_delay(entries bigint) RETURNS interval
    LANGUAGE sql
    IMMUTABLE
    RETURN greatest(interval '50 milliseconds', least(entries * interval '4 microseconds', interval '5 minutes'));

COMMENT ON FUNCTION _pgq_rescan_delay(bigint) IS
    'Return the least time between a long scan that read so many entries in vain and the next one: about 20 times as '
    'long as it takes on an idle machine, so that such scans take 5 % of the time, but at least 50 milliseconds and at '
    'most 5 minutes.';


-- The server does not count entries that are known to be dead to all, but it counts the pages full of them.
CREATE FUNCTION _pgq_entries_read(index regclass) RETURNS bigint
    LANGUAGE sql
    VOLATILE
    RETURN CASE
        WHEN current_setting('track_counts')::boolean THEN
            pg_stat_get_xact_tuples_returned(index) + 2 * pg_stat_get_xact_blocks_fetched(index)
    END;

COMMENT ON FUNCTION _pgq_entries_read(regclass) IS
    'Return a counter of what this transaction has read from an index, where a page counts as two entries; NULL if the '
    'server does not count.';


CREATE FUNCTION _pgq_microseconds(at timestamptz) RETURNS bigint
    LANGUAGE sql
    STABLE
    RETURN (extract(epoch FROM at) * 1000000)::bigint;

COMMENT ON FUNCTION _pgq_microseconds(timestamptz) IS
    'Return a time as microseconds since 1970.';


-- Only a forged setting has a number outside the range of timestamptz: that lane counts as unknown.
CREATE FUNCTION _pgq_lane_start(ripe_us bigint) RETURNS timestamptz
    LANGUAGE sql
    STABLE
    RETURN CASE
        WHEN ripe_us BETWEEN -200000000000000000 AND 1000000000000000000
            THEN timestamptz 'epoch' + ripe_us * interval '1 microsecond'
        ELSE '-infinity'
    END;

COMMENT ON FUNCTION _pgq_lane_start(bigint) IS
    'Return the ripe_at after which the scan of a lane starts: that of its head, or -infinity where none is known.';


-- The oid tells apart installations in several schemas; the digest makes a valid name of any queue. Not "pgq.head_": a
-- session that has lived through the upgrade from 0.2.0 keeps something else under that name.
CREATE FUNCTION _pgq_head_setting(queue text) RETURNS text
    LANGUAGE sql
    STABLE
    RETURN 'pgq.heads_' || 'pgq_head'::regclass::oid || '_' || md5(queue);

COMMENT ON FUNCTION _pgq_head_setting(text) IS
    'Return the name of the setting in which a session keeps its heads in the lanes of a queue.';


CREATE FUNCTION _pgq_save_head(head pgq_head) RETURNS void
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_save_head$
BEGIN
    PERFORM set_config(
        _pgq_head_setting(head.queue),
        _pgq_microseconds(head.due) || ' ' || (extract(epoch FROM head.rescan_delay) * 1000000)::bigint || ' '
        || head.lanes::text,
        false);
END
$_pgq_save_head$;

COMMENT ON FUNCTION _pgq_save_head(pgq_head) IS
    'Keep the heads of a queue in this session, with a due that is at most rescan_delay from now.';
