// A worker on node-postgres:  node worker.mjs      and a producer:  node worker.mjs enqueue KIND JSON
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";

const queue = process.env.PGQ_QUEUE ?? "default", lease = Number(process.env.PGQ_LEASE ?? 60);
const name = `node:${process.pid}:${Math.random().toString(36).slice(2)}`;
const ENQUEUE = "SELECT id FROM pgq_enqueue($1, $2, $3)", [, , command, ...given] = process.argv;
const CLAIM = "SELECT id, token, kind, args::text FROM pgq_claim(ARRAY[$1], 1, make_interval(secs => $2), $3)";
// No row: an operator has cancelled the job. An error: the lease is lost.
const EXTEND = `SELECT FROM pgq_extend($1, $2, make_interval(secs => $3))
                WHERE NOT EXISTS (SELECT FROM pgq_cancel_requested(ARRAY[$1], ARRAY[$2]))`;
let stopping = false, wake = () => {};
process.on("SIGTERM", () => { stopping = true; wake(); });

// A handler works outside of a transaction, and returns what to do in the one that completes its job.
// JSON is passed as text: node-postgres would write an array as one of PostgreSQL. Numbers beyond 2^53 are rounded.
const write = (job, args) => (db) =>
  db.query("INSERT INTO conformance_effect VALUES ($1, $2, $3)", [job.id, args.n, JSON.stringify(args.value ?? null)]);
const snooze = (until) => { throw Object.assign(new Error(until), { isSnooze: true }); };
const handlers = {
  "conformance.write": write,
  "conformance.slow": (job, args, signal) => sleep(args.seconds * 1000, null, { signal }).then(() => write(job, args)),
  "conformance.fail": (job, args) => { throw new Error(args.message); },
  "conformance.snooze": (job, args) => (Date.now() < args.until * 1000 ? snooze(args.until) : write(job, args)),
};

async function run(db, side, job) {
  const key = [job.id, job.token], over = new AbortController(); // a bigint comes as text, and goes back as it is
  const extend = () => side.query(EXTEND, [...key, lease]).then((held) => held.rowCount || over.abort());
  const keep = setInterval(() => extend().catch(() => over.abort()), (lease * 1000) / 3);
  try {
    if (!handlers[job.kind]) return await db.query("SELECT pgq_decline($1, $2)", key);
    const effect = await handlers[job.kind](job, JSON.parse(job.args), over.signal);
    await db.query("BEGIN");
    await effect(db);
    await db.query("SELECT pgq_complete($1, $2)", key);
    await db.query("COMMIT");
  } catch (error) {
    await db.query("ROLLBACK"); // throws if the connection is lost: then the job is done, or its lease ends
    if (error.code === "PGQ02") return;
    const end = error.isSnooze ? "pgq_snooze($1, $2, to_timestamp($3))" : "pgq_fail($1, $2, $3)";
    await db.query(`SELECT ${end}`, [...key, error.message]).catch((e) => { if (e.code !== "PGQ02") throw e; });
  } finally { clearInterval(keep); }
}

async function serve(db, side) {
  await side.query("SELECT pgq_register($1, ARRAY[$2])", [name, queue]);
  side.on("notification", () => wake());
  for (let asleep = false, job; !stopping; asleep = !job) {
    [job] = (await db.query(CLAIM, [queue, lease, name])).rows;
    if (job && asleep) await side.query("SELECT pgq_idle(ARRAY[$1], false)", [queue]);
    if (job) await run(db, side, job);
    else if (asleep) await new Promise((done) => { wake = done; setTimeout(done, 1000); });
    else for (const { channel } of (await side.query("SELECT pgq_idle(ARRAY[$1]) AS channel", [queue])).rows)
      await side.query(`LISTEN "${channel}"`);
  }
  await side.query("SELECT pgq_unregister($1)", [name]);
}

while (!stopping) {
  const clients = [new pg.Client(), new pg.Client()];
  try {
    for (const client of clients) await client.on("error", () => {}).connect();
    if (command === "enqueue") console.log((await clients[0].query(ENQUEUE, [...given, queue])).rows[0].id);
    else await serve(...clients);
    stopping = true;
  } catch (error) { console.error(error.message); await sleep(500); }
  for (const client of clients) client.end().catch(() => {});
}
