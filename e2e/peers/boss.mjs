// pg-boss: `node boss.mjs URL default|batched`.

import pg from "pg";
import { PgBoss } from "pg-boss";
import { serve } from "./client.mjs";

const [url, setting] = process.argv.slice(2);
const QUEUE = "noop";
const CONCURRENCY = 16;
const batched = setting === "batched";
const work = batched
  ? { localConcurrency: 4, batchSize: 500, burstWhenBatchFull: true, pollingIntervalSeconds: 0.5 }
  : { localConcurrency: CONCURRENCY };
const boss = new PgBoss({ connectionString: url, useListenNotify: batched });
boss.on("error", (error) => console.error(error));
const pool = new pg.Pool({ connectionString: url });

await serve({
  async setup() {
    await boss.start();
    await boss.createQueue(QUEUE);
    // It may have been there, from before the database was copied.
    await boss.updateQueue(QUEUE, { notify: batched });
  },
  async add(payloads) {
    if (payloads.length === 1) await boss.send(QUEUE, payloads[0]);
    else await boss.insert(QUEUE, payloads.map((data) => ({ data })));
  },
  async start(seen) {
    await boss.work(QUEUE, work, async (jobs) => {
      for (const job of jobs) seen.begun(job.data);
    });
  },
  async stop() {
    await boss.offWork(QUEUE, { wait: true });
  },
  async over() {
    const { rows } = await pool.query(
      "select not exists (select from pgboss.job where name = $1 and state < 'completed') as over",
      [QUEUE],
    );
    return rows[0].over;
  },
  async clear() {
    await pool.query("delete from pgboss.job where name = $1 and state < 'completed'", [QUEUE]);
  },
  async end() {
    await boss.stop({ graceful: true, timeout: 5000 });
    await pool.end();
  },
});
