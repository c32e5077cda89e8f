-- Requests to cancel jobs that are running.
--
-- pgq_cancel cannot end a running job: its worker works on it, and a transaction may hold its row. So it leaves a
-- request, which every way back to waiting looks for, and the worker from time to time; completing and claiming do not.
--
-- A request has no token. It holds until the job ends: a way back that finds it ends the job. Only one that is on its
-- way while the request is not committed yet misses it; then the request still holds while the job waits, and in its
-- next claim. pgq_retry removes what a job that has ended left behind.

CREATE TABLE pgq_cancel_request (
    id           bigint      NOT NULL,
    requested_at timestamptz NOT NULL,

    CONSTRAINT pgq_cancel_request_pkey PRIMARY KEY (id)
);

COMMENT ON TABLE pgq_cancel_request IS
    'Requests to cancel jobs that were running; claims remove those of jobs that have ended without noticing.';
COMMENT ON COLUMN pgq_cancel_request.id IS 'Number of the job.';
COMMENT ON COLUMN pgq_cancel_request.requested_at IS 'When pgq_cancel was called.';
