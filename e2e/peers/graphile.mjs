// graphile-worker: `node graphile.mjs URL default|batched`.

import pg from "pg";
import { Logger, makeWorkerUtils, run } from "graphile-worker";
import { serve } from "./client.mjs";

const [url, setting] = process.argv.slice(2);
const logger = new Logger(() => () => {});
const CONCURRENCY = 16;
const preset = {
  worker: {
    connectionString: url,
    concurrentJobs: CONCURRENCY,
    ...(setting === "batched"
      ? { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 }
      : {}),
  },
};
const pool = new pg.Pool({ connectionString: url });
let utils;
let runner;
let base = 0;

await serve({
  async setup() {
    utils = await makeWorkerUtils({ connectionString: url, logger });
    await utils.migrate();
    const { rows } = await pool.query("select coalesce(max(id), 0) as base from graphile_worker._private_jobs");
    base = rows[0].base;
  },
  async add(payloads) {
    if (payloads.length === 1) await utils.addJob("noop", payloads[0]);
    else await utils.addJobs(payloads.map((payload) => ({ identifier: "noop", payload })));
  },
  async start(seen) {
    const taskList = { noop: async (payload) => seen.begun(payload) };
    runner = await run({ preset, taskList, logger, noHandleSignals: true });
  },
  async stop() {
    await runner.stop();
  },
  // Jobs that are over are gone.
  async over() {
    const { rows } = await pool.query(
      "select not exists (select from graphile_worker._private_jobs where id > $1) as over",
      [base],
    );
    return rows[0].over;
  },
  async clear() {
    await pool.query("delete from graphile_worker._private_jobs where id > $1", [base]);
  },
  async end() {
    await utils.release();
    await pool.end();
  },
});
