// A job's life through node-postgres: enqueue, claim, extend, fail, claim, complete.
import pg from "pg";

const [host, port, user, database] = process.argv.slice(2);
const client = new pg.Client({ host, port, user, database });
await client.connect();
const call = async (query, ...values) => (await client.query(query, values)).rows;

const args = { to: "ann", n: [1, 2.5] };
const when = new Date(Date.now() - 60000);
await call(
    "SELECT id FROM pgq_enqueue($1, $2, queue => $3, ripe_at => $4, priority => $5, max_retries => $6, "
        + "backoff => $7, dedup => $8)",
    "k", args, "q", when, 3, 4n, "90 seconds", false);
await call(
    "SELECT id FROM pgq_enqueue($1, $2, queue => $3, delay => make_interval(secs => $4))",
    "later", JSON.stringify([1, 2.5]), "q", 90.5);
const claim = "SELECT id, token FROM pgq_claim($1, $2, $3, $4)";
let [job] = await call(claim, ["q"], 10, "5 minutes", "w");
await call("SELECT pgq_extend($1, $2, $3)", job.id, job.token, "6 minutes");
await call("SELECT pgq_fail($1, $2, $3, $4)", job.id, job.token, "why", 0);
[job] = await call(claim, ["q"], 10n, "5 minutes", null);
await call("SELECT pgq_complete($1, $2, $3)", Number(job.id), Number(job.token), { sent: true });
await client.end();
