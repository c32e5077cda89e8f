-- Nobody but the owner may touch anything until pgq_grant says so. PostgreSQL lets PUBLIC execute each new function,
-- so this list must name them all.

REVOKE ALL ON TABLE pgq_permission, pgq_waiting, pgq_running, pgq_ended, pgq_head, pgq_worker, _pgq_presence, _pgq_sight,
    pgq_job, pgq_workers, pgq_stats FROM PUBLIC;
REVOKE ALL ON SEQUENCE pgq_job_id, pgq_token, pgq_worker_number FROM PUBLIC;
REVOKE ALL ON FUNCTION
    pgq_now, pgq_version, _pgq_signature, _pgq_caller, _pgq_limit, _pgq_refuse, _pgq_channel, _pgq_wake, pgq_idle,
    _pgq_problem, pgq_enqueue, _pgq_check_jobs, _pgq_parse_jobs, _pgq_change_twins, _pgq_meet_twins, pgq_enqueue_many,
    _pgq_is_long, _pgq_pause, _pgq_steps, _pgq_microseconds, _pgq_head_setting, _pgq_keep_head, _pgq_shared_head,
    _pgq_recall_head, _pgq_reached, _pgq_share_head, _pgq_move_heads,
    _pgq_lease_end, _pgq_check_claim, pgq_claim, _pgq_expire, _pgq_expire_sometimes,
    pgq_register, pgq_unregister, pgq_disown, _pgq_sweep, pgq_pending,
    _pgq_lease_lost, _pgq_take, pgq_hold, pgq_complete, pgq_complete_many,
    pgq_backoff, _pgq_end, _pgq_put_back, _pgq_errors, _pgq_retry_or_bury, pgq_fail, pgq_discard,
    pgq_extend, pgq_snooze, pgq_release,
    _pgq_state, pgq_cancel, pgq_retry, pgq_purge,
    _pgq_functions, _pgq_check_grant, _pgq_grant_privileges, _pgq_revoke_privileges, pgq_grant, pgq_revoke
FROM PUBLIC;
