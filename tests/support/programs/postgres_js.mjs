// A job's life through Postgres.js: enqueue, claim, extend, fail, claim, complete.
import postgres from "postgres";

const [host, port, user, database] = process.argv.slice(2);
const sql = postgres({ host, port, user, database });

const args = { to: "ann", n: [1, 2.5] };
const when = new Date(Date.now() - 60000);
await sql`
    SELECT id FROM pgq_enqueue(
        ${"k"}, ${args}, queue => ${"q"}, ripe_at => ${when}, priority => ${3}, max_retries => ${4n},
        backoff => ${"90 seconds"}, dedup => ${false})`;
await sql`
    SELECT id FROM pgq_enqueue(
        ${"later"}, ${sql.json([1, 2.5])}, queue => ${"q"}, delay => make_interval(secs => ${90.5}))`;
const claim = (count, worker) => sql`SELECT id, token FROM pgq_claim(${["q"]}, ${count}, ${"5 minutes"}, ${worker})`;
let [job] = await claim(10, "w");
await sql`SELECT pgq_extend(${job.id}, ${job.token}, ${"6 minutes"})`;
await sql`SELECT pgq_fail(${job.id}, ${job.token}, ${"why"}, ${0})`;
[job] = await claim(10n, null);
await sql`SELECT pgq_complete(${Number(job.id)}, ${Number(job.token)}, ${{ sent: true }})`;
await sql.end();
