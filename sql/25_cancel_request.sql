-- Requests to cancel jobs that are running.
--
-- pgq_cancel cannot end a running job: its worker works on it, and a transaction may hold its row. So it leaves a
-- request. Every way back to waiting looks for it, and ends the job. The worker asks for it from time to time;
-- completing and claiming do not look.
--
-- A request has no token, and holds until the job ends. A way back that runs before the request is committed misses it;
-- then the request still holds while the job waits, and in its next claim. pgq_retry removes the request that a job
-- which has ended left behind.

CREATE TABLE pgq_cancel_request (
    id           bigint      NOT NULL,
    requested_at timestamptz NOT NULL,

    CONSTRAINT pgq_cancel_request_pkey PRIMARY KEY (id)
);

COMMENT ON TABLE pgq_cancel_request IS
    'Requests to cancel jobs that were running; maintenance removes those of jobs that have ended all the same.';
COMMENT ON COLUMN pgq_cancel_request.id IS 'Number of the job.';
COMMENT ON COLUMN pgq_cancel_request.requested_at IS 'When pgq_cancel was called.';
