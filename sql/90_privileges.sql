-- Until pgq_grant is called, only the owner may use anything. PostgreSQL lets PUBLIC execute each new function, so this
-- list must name them all.

REVOKE ALL ON TABLE
    pgq_permission, pgq_waiting, pgq_running, pgq_running_batch, pgq_ended, pgq_worker_session, pgq_head, pgq_turn,
    pgq_uncounted, pgq_rate,
    pgq_cancel_request, pgq_error, pgq_queue_setting, pgq_paused, _pgq_packed, _pgq_running, _pgq_presence,
    _pgq_visible_queues, pgq_jobs, pgq_workers,
    pgq_stats, pgq_queues
FROM PUBLIC;
REVOKE ALL ON TYPE _pgq_lane_head FROM PUBLIC;
REVOKE ALL ON SEQUENCE
    pgq_mark, pgq_job_id, pgq_token, pgq_worker_session_number, pgq_turn_0, pgq_turn_1, pgq_turn_2, pgq_turn_3,
    pgq_turn_4, pgq_turn_5, pgq_turn_6, pgq_turn_7
FROM PUBLIC;
REVOKE ALL ON FUNCTION
    pgq_now, pgq_version,
    _pgq_signature,
    _pgq_calling_role, _pgq_acts_as_owner, _pgq_refuse_in_maintenance, _pgq_allowed_queues, _pgq_raise_denied,
    _pgq_is_name, _pgq_group_id, _pgq_is_in_range,
    _pgq_mark_of, _pgq_marks_of, _pgq_marks, _pgq_mark,
    _pgq_is_plain, _pgq_unpack, _pgq_unpack_jobs,
    _pgq_room, _pgq_order_key, _pgq_is_ordered, _pgq_enter_group, _pgq_enter_groups, _pgq_place,
    _pgq_is_common, _pgq_is_valid, _pgq_validate,
    pgq_enqueue, _pgq_resolve_duplicate,
    _pgq_update_duplicates, _pgq_resolve_duplicates,
    _pgq_check_jobs, _pgq_raise_invalid, _pgq_parse_jobs,
    pgq_enqueue_many,
    _pgq_with_defaults, _pgq_set_defaults, _pgq_resumes_at,
    _pgq_lease_end, _pgq_is_usual_claim, _pgq_check_claim, _pgq_distinct,
    _pgq_is_long_scan, _pgq_rescan_delay, _pgq_entries_read, _pgq_microseconds, _pgq_lane_start, _pgq_head_setting,
    _pgq_save_head, _pgq_shared_head, _pgq_replace_head, _pgq_share_head, _pgq_share_scan, _pgq_share_lanes,
    _pgq_try_scan, _pgq_await_head, _pgq_is_kept, _pgq_may_scan, _pgq_load_head, _pgq_load_heads,
    _pgq_bare_setting, _pgq_is_bare, _pgq_digest,
    _pgq_lanes_reached, _pgq_taken_from, _pgq_move_heads,
    _pgq_move_token, _pgq_skip_lost_tokens,
    _pgq_lock_in_many, _pgq_drop_empty,
    _pgq_has_limits, _pgq_cap, _pgq_await_queue, _pgq_lock_queue, _pgq_caps, _pgq_free,
    _pgq_await_claims, _pgq_lock_settings, _pgq_begin_limits,
    _pgq_check_snapshot, _pgq_look_at_queues, _pgq_turn, _pgq_end_turn,
    _pgq_groups_in_turn, _pgq_groups_setting, _pgq_known_groups, _pgq_keep_groups, _pgq_look_for_groups,
    _pgq_groups_of_list, _pgq_find_groups, _pgq_turn_sequence, _pgq_turn_value, _pgq_reserved_turn,
    _pgq_reserve_groups, _pgq_return_turn, _pgq_lock_firsts, _pgq_first_jobs, _pgq_group_head, _pgq_tuples_read, _pgq_move_group_heads, _pgq_lock_in_groups,
    _pgq_lock_shares, _pgq_has_waiting, _pgq_lock_in_turn, _pgq_await_order, _pgq_lock_heads,
    _pgq_rate_steps, _pgq_span, _pgq_may_start, _pgq_all_spent, _pgq_room_of, _pgq_spend, _pgq_leave_room,
    _pgq_lock_in_turns, _pgq_move_in_turn, _pgq_group_ripe_at, _pgq_grouped_ripe_at, _pgq_turn_at,
    _pgq_cut, _pgq_lock_ripe, _pgq_lock_marked, pgq_claim, pgq_claim_batch,
    _pgq_raise_lease_lost, _pgq_check_pairs, _pgq_take, _pgq_end,
    _pgq_add_error, _pgq_delete_errors, _pgq_merge_errors,
    _pgq_merge, _pgq_keep_place, _pgq_requeue, _pgq_record_failure,
    pgq_hold, pgq_hold_many, pgq_complete, _pgq_complete_packed, _pgq_complete_held, pgq_complete_many,
    pgq_backoff, pgq_fail, pgq_cancel_claimed,
    pgq_extend, pgq_snooze, pgq_release,
    pgq_decline,
    _pgq_count_loss, _pgq_mark_lost,
    _pgq_request_cancel, _pgq_await_waiting, _pgq_take_cancel_request, _pgq_cancel_waiting, pgq_cancel_requested,
    _pgq_settle_cancel_requests,
    _pgq_channel, _pgq_slot_key, _pgq_is_soon, _pgq_wake_sleepers, _pgq_wake,
    pgq_register, pgq_unregister, pgq_reconcile,
    _pgq_expire_leases, _pgq_workers_reconnect, _pgq_sweep_workers, _pgq_maintain,
    pgq_remaining,
    _pgq_sleep_in_slot, pgq_idle, pgq_ripe_in, _pgq_first_queue, pgq_queues_to_serve,
    _pgq_job_state, pgq_cancel, pgq_retry,
    pgq_purge,
    _pgq_check_setting, _pgq_check_settings, _pgq_check_queue, pgq_configure,
    _pgq_check_group, _pgq_pause_group, pgq_pause, pgq_resume,
    _pgq_granted_functions, _pgq_check_grant, _pgq_grant_privileges, _pgq_revoke_privileges,
    pgq_grant, pgq_revoke
FROM PUBLIC;
