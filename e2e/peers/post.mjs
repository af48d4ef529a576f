// graphile-worker, which posts what a trigger has added: `node post.mjs setup URL`, and
// `node post.mjs run URL SINK`. Used by the benchmark in `e2e/speed`.

import { Agent, request } from "node:http";
import { Logger, makeWorkerUtils, run } from "graphile-worker";

const [command, connectionString, sink] = process.argv.slice(2);
const logger = new Logger(() => (level, message) => {
  if (level === "error") console.error(message);
});
const CONCURRENCY = 64;

if (command === "setup") {
  const utils = await makeWorkerUtils({ connectionString, logger });
  await utils.migrate();
  await utils.release();
} else if (command === "run") {
  // Less work than `fetch`.
  const agent = new Agent({ keepAlive: true, maxSockets: CONCURRENCY });
  const post = (body) =>
    new Promise((resolve, reject) => {
      const headers = { "content-type": "application/json", "content-length": Buffer.byteLength(body) };
      const sent = request(sink, { method: "POST", agent, headers }, (response) => {
        response.resume();
        response.on("end", () => {
          if (response.statusCode === 200) resolve();
          else reject(new Error(`answered with ${response.statusCode}`));
        });
      });
      sent.on("error", reject);
      sent.end(body);
    });
  const taskList = { post: (payload) => post(JSON.stringify(payload)) };
  const preset = {
    worker: {
      connectionString,
      concurrentJobs: CONCURRENCY,
      maxPoolSize: 10,
      localQueue: { size: 500 },
      completeJobBatchDelay: 0,
      failJobBatchDelay: 0,
    },
  };
  const runner = await run({ preset, taskList, logger });
  await runner.promise;
} else {
  console.error("setup URL, or run URL SINK");
  process.exitCode = 2;
}
