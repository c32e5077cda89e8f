"""The handlers of the application; put yours in its place."""

import pgq


@pgq.handler("mail")
def mail(job: pgq.Job) -> None:
    print(f"to {job.args['to']}, attempt {job.attempt}", flush=True)
