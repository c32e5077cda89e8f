-- What claims do on the side: fire schedules, sweep the workers, rescue jobs whose leases have ended, and delete old
-- jobs.

-- The entries of jobs that are gone pile up in the index of the leases as in that of the claim, so the search is
-- rationed in the same way, by _pgq_load_head. A search counts as 250,000 entries at least, so each session makes one a
-- second at most. When the walk is long, all sessions together make one at a time.
CREATE FUNCTION _pgq_maintain(at timestamptz) RETURNS timestamptz
    LANGUAGE plpgsql
    SET search_path FROM CURRENT
AS $_pgq_maintain$
DECLARE
    v_is_new boolean := coalesce(current_setting(_pgq_head_setting(''), true), '') = '';
    v_head pgq_head := _pgq_load_head('', at);
    v_is_known boolean := v_head.rescan_delay > interval '0';
    v_read bigint;
    v_count integer;
    v_wasted bigint;
    v_fires_at timestamptz;
BEGIN
    IF v_is_new THEN
        PERFORM _pgq_skip_lost_tokens(at);
    END IF;
    -- Not rationed with the search, which may have to wait for minutes.
    v_fires_at := _pgq_fire_schedules(at);
    IF v_head.due > at THEN
        RETURN least(v_head.due, v_fires_at);
    END IF;

    v_read := _pgq_entries_read('pgq_running_lease') + _pgq_entries_read('pgq_running_batch_lease');
    PERFORM _pgq_sweep_workers(at, v_is_new);
    v_count := _pgq_expire_leases(at);
    PERFORM _pgq_settle_cancel_requests(at);
    PERFORM _pgq_settle_blocked(at);
    PERFORM _pgq_settle_signals();
    PERFORM _pgq_delete_lost_signals();
    PERFORM _pgq_settle_awaited();
    PERFORM _pgq_delete_old(at);
    PERFORM _pgq_delete_seen(at);
    PERFORM _pgq_delete_batches(at);
    PERFORM _pgq_fold_counts(at);
    v_wasted := _pgq_entries_read('pgq_running_lease') + _pgq_entries_read('pgq_running_batch_lease')
                - v_read - v_count;
    v_head.rescan_delay := _pgq_rescan_delay(greatest(v_wasted, 250000));
    v_head.due := at + v_head.rescan_delay;
    -- If this search has found as many jobs as it may take, the next claim searches again.
    IF v_count >= 50 THEN
        RETURN '-infinity';
    END IF;
    IF _pgq_is_long_scan(v_wasted, 1) THEN
        PERFORM _pgq_share_head(v_head);
    ELSIF v_is_known THEN
        PERFORM _pgq_replace_head(ROW('', '-infinity', '0', '{}')::pgq_head);
    END IF;
    PERFORM _pgq_save_head(v_head);
    RETURN least(v_head.due, v_fires_at);
END
$_pgq_maintain$;

COMMENT ON FUNCTION _pgq_maintain(timestamptz) IS
    'Call _pgq_fire_schedules, and if the search for expired leases is due in this session, _pgq_sweep_workers, '
    '_pgq_expire_leases, _pgq_settle_cancel_requests, _pgq_settle_blocked, _pgq_settle_signals, '
    '_pgq_delete_lost_signals, _pgq_settle_awaited, _pgq_delete_old, _pgq_delete_seen, _pgq_delete_batches and '
    '_pgq_fold_counts. The first call of a session calls _pgq_skip_lost_tokens, too. Returns when the next search is '
    'due, or the next slot of a schedule if that is sooner; -infinity if there is more to do.';
