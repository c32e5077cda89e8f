-- pg_dump saves the data of an extension's tables and sequences only where it is told to. One call per statement: a
-- second call for another table in the same statement would not see the change of the first one.
SELECT pg_extension_config_dump('pgq_permission', '');
SELECT pg_extension_config_dump('pgq_waiting', '');
SELECT pg_extension_config_dump('pgq_running', '');
SELECT pg_extension_config_dump('pgq_running_batch', '');
SELECT pg_extension_config_dump('pgq_ended', '');
SELECT pg_extension_config_dump('pgq_cancel_request', '');
SELECT pg_extension_config_dump('pgq_error', '');
SELECT pg_extension_config_dump('pgq_saved', '');
SELECT pg_extension_config_dump('pgq_job_signal', '');
SELECT pg_extension_config_dump('pgq_signal_wait', '');
SELECT pg_extension_config_dump('pgq_merged', '');
SELECT pg_extension_config_dump('pgq_queue_setting', '');
SELECT pg_extension_config_dump('pgq_paused', '');
SELECT pg_extension_config_dump('pgq_rate', '');
SELECT pg_extension_config_dump('pgq_uncounted', '');
SELECT pg_extension_config_dump('pgq_schedule_entry', '');
SELECT pg_extension_config_dump('pgq_seen', '');
SELECT pg_extension_config_dump('pgq_count', '');
SELECT pg_extension_config_dump('pgq_blocked', '');
SELECT pg_extension_config_dump('pgq_need', '');
SELECT pg_extension_config_dump('pgq_need_ended', '');
SELECT pg_extension_config_dump('pgq_batch', '');
SELECT pg_extension_config_dump('pgq_needed', '');
SELECT pg_extension_config_dump('pgq_job_id', '');
SELECT pg_extension_config_dump('pgq_mark', '');
SELECT pg_extension_config_dump('pgq_token', '');
