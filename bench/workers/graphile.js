// A worker of graphile-worker with the settings of the preset of its own performance test.
"use strict";

const fs = require("node:fs");
const { run } = require("graphile-worker");

const CONCURRENT_JOBS = 24;
const REPORT_EVERY = 10;

const task = JSON.parse(process.env.BENCH_TASK);
const counts = new BigInt64Array(2 + task.times);
const file = fs.openSync(task.counts, "r+");
let handled = 0;
let sum = 0;

function report() {
  if (BigInt(handled) !== counts[0]) {
    counts[0] = BigInt(handled);
    counts[1] = BigInt(sum);
    fs.writeSync(file, new Uint8Array(counts.buffer), 0, counts.byteLength, 0);
  }
}

function count(args) {
  if (task.pad && args.pad.length !== task.pad) {
    throw new Error(`the payload of job ${args.n} is truncated`);
  }
  if (task.times) {
    counts[2 + args.n] = process.hrtime.bigint();
  }
  sum += args.n;
  handled += 1;
}

async function nothing(args) {
  count(args);
}

// The INSERT commits by itself, before the job is completed: the job takes effect at least once.
async function insert(args, helpers) {
  await helpers.withPgClient((client) =>
    client.query({ name: "effect", text: "INSERT INTO effect (n) VALUES ($1)", values: [args.n] }),
  );
  count(args);
}

async function main() {
  const runner = await run({
    preset: {
      worker: {
        gracefulShutdownAbortTimeout: 2500,
        concurrentJobs: CONCURRENT_JOBS,
        maxPoolSize: CONCURRENT_JOBS + 1,
        localQueue: { size: task.batch ?? 500, refetchDelay: { durationMs: 10 } },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
      },
    },
    noHandleSignals: true,
    taskList: { job: task.transaction ? insert : nothing },
    parsedCronItems: [],
  });
  setInterval(report, REPORT_EVERY);
  process.on("SIGTERM", async () => {
    await runner.stop();
    report();
    process.exit(0);
  });
  await runner.promise;
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
