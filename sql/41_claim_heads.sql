-- How a claim gets past the entries of jobs that are gone.
--
-- The claim index keeps an entry of each claimed job until vacuum may remove it, and a snapshot that is held anywhere
-- forbids that. A claim that starts at the left end of its lanes walks over all of these entries. So once that walk is
-- long, a session remembers the head of each lane: where the live entries begin. A head moves in two steps, each time
-- to the place that the claim before had reached, so that a job that commits a little late is still to the right of it.
--
-- Some jobs are to the left of the head all the same: after a claim that rolled back, after a very late commit, or when
-- they were put back at their old place. A scan from the left end finds them. While the walk is short, each claim makes
-- that scan; otherwise the next scan comes after twenty times as long as the last one took.
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


CREATE FUNCTION _pgq_rescan_delay(cost interval) RETURNS interval
    LANGUAGE sql
    IMMUTABLE
    RETURN least(20 * cost, interval '5 minutes');

COMMENT ON FUNCTION _pgq_rescan_delay(interval) IS
    'Return the least time between a long scan that took cost and the next one: 20 times cost, so that such scans take '
    '5 % of the time, but at most 5 minutes.';


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


-- A row whose due is further ahead than its own rescan_delay was written before the clock of the server was set back.
-- It gets a second more: the row may have been written since this session has read the clock. No rescan_delay is
-- longer than 5 minutes, so the first condition on due limits the scan of the index.
CREATE FUNCTION _pgq_shared_head(queue text, at timestamptz) RETURNS pgq_head
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
    SET enable_seqscan = off
    SET jit = off
    SET plan_cache_mode = force_generic_plan
AS $_pgq_shared_head$
DECLARE
    v_head pgq_head;
BEGIN
    SELECT h.* INTO v_head
    FROM pgq_head AS h
    WHERE h.queue = _pgq_shared_head.queue
      AND h.due < at + interval '6 minutes'
      AND h.due < at + h.rescan_delay + interval '1 second'
    ORDER BY h.due DESC
    LIMIT 1;
    RETURN v_head;
END
$_pgq_shared_head$;

COMMENT ON FUNCTION _pgq_shared_head(text, timestamptz) IS
    'Return the newest heads of a queue that a session has shared; NULLs where there are none.';


CREATE FUNCTION _pgq_load_head(queue text, at timestamptz) RETURNS pgq_head
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_load_head$
DECLARE
    v_setting text := current_setting(_pgq_head_setting(queue), true);
    v_wait bigint;
    v_delay bigint;
    v_head pgq_head := ROW(queue, at, '0', '{}');
    v_shared pgq_head;
BEGIN
    IF v_setting <> '' THEN
        BEGIN
            v_head.lanes := split_part(v_setting, ' ', 3)::_pgq_lane_head[];
            v_delay := least(split_part(v_setting, ' ', 2)::bigint, 600000000);
            v_wait := split_part(v_setting, ' ', 1)::bigint - _pgq_microseconds(at);
        EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
            -- Damaged or forged. Raising would keep every client of a pooled session from its jobs.
            v_head.lanes := '{}';
        END;
        -- A due that is further ahead than its rescan_delay was kept before the clock was set back.
        IF v_wait BETWEEN 1 AND v_delay THEN
            v_head.due := at + v_wait * interval '1 microsecond';
            v_head.rescan_delay := v_delay * interval '1 microsecond';
            RETURN v_head;
        END IF;
    END IF;

    v_shared := _pgq_shared_head(queue, at);
    IF v_shared.due IS NOT NULL THEN
        IF v_head.lanes = '{}' THEN
            v_head.lanes := v_shared.lanes;
        END IF;
        -- Another session has scanned. A random delay, so that one of the sessions makes the next scan, not all.
        v_head.due := v_shared.due + random() * v_shared.rescan_delay;
        v_head.rescan_delay := v_head.due - at;
        PERFORM _pgq_save_head(v_head);
        -- A new session may live for one claim only: it leaves the scan to others for longer.
        IF v_wait IS NULL AND v_shared.due + 9 * v_shared.rescan_delay > at THEN
            v_head.due := greatest(v_head.due, at + interval '1 microsecond');
        END IF;
    END IF;
    RETURN v_head;
END
$_pgq_load_head$;

COMMENT ON FUNCTION _pgq_load_head(text, timestamptz) IS
    'Return the heads of a queue that this session has kept, or else those that another session has shared; no lanes '
    'where nothing is known. When due has passed, the claim is to scan from the start of each lane.';
