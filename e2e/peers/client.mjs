// What every client in JavaScript does alike: commands come as lines of JSON, each is answered
// with one. The harness measures what a command costs; the client just tells how long it took.

import { createInterface } from "node:readline";

/** How long after the last job was added it may take until all have begun. */
const PATIENCE_MS = 30_000;

/** Between two looks whether all is over, in milliseconds. */
const LOOK_EVERY_MS = 2;

const TEXT = "x".repeat(100);

/** What every job carries, in every system. */
export const payload = (n) => ({ n, at: performance.now(), text: TEXT });

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** Counts jobs that begin, and how long they had waited. */
export class Seen {
  count = 0;
  waited = [];
  begun(job) {
    this.count += 1;
    this.waited.push(performance.now() - job.at);
  }
  /** Waits until so many have begun; false when `ms` are over before. */
  async reaches(count, ms) {
    const end = performance.now() + ms;
    while (this.count < count) {
      if (performance.now() >= end) return false;
      await sleep(LOOK_EVERY_MS);
    }
    return true;
  }
}

/** Waits until `over` says so. */
export async function until(over) {
  const end = performance.now() + PATIENCE_MS;
  while (!(await over())) {
    if (performance.now() >= end) throw new Error("not over in time");
    await sleep(LOOK_EVERY_MS);
  }
}

export function percentile(sorted, of) {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * of))];
}

/** The commands of a system that can `setup`, `add` many at once, `start` and `stop` working, and
 * tell whether all is `over`. */
function commands(system) {
  return {
    setup: async () => (await system.setup()) ?? {},
    insert: async ({ jobs, batch }) => {
      const begun = performance.now();
      for (let from = 0; from < jobs; from += batch) {
        const many = Math.min(batch, jobs - from);
        await system.add(Array.from({ length: many }, (_, n) => payload(from + n)));
      }
      return { jobs, seconds: (performance.now() - begun) / 1000 };
    },
    drain: async ({ jobs, most }) => {
      const seen = new Seen();
      const begun = performance.now();
      await system.start(seen);
      const all = await seen.reaches(jobs, most * 1000);
      if (all) await until(system.over);
      const seconds = (performance.now() - begun) / 1000;
      const done = seen.count;
      await system.stop();
      if (!all) await system.clear();
      return { jobs: Math.min(done, jobs), seconds, all };
    },
    steady: async ({ rate, seconds }) => {
      const seen = new Seen();
      await system.start(seen);
      // Not while it is still starting.
      await sleep(500);
      const total = rate * seconds;
      const begun = performance.now();
      const adding = [];
      for (let n = 0; n < total; n += 1) {
        const wait = begun + (n * 1000) / rate - performance.now();
        if (wait > 0) await sleep(wait);
        adding.push(system.add([payload(n)]));
      }
      await Promise.all(adding);
      const all = await seen.reaches(total, PATIENCE_MS);
      const took = (performance.now() - begun) / 1000;
      await system.stop();
      if (!all) await system.clear();
      const sorted = seen.waited.sort((one, other) => one - other);
      const at = (of) => percentile(sorted, of);
      return { jobs: total, seconds: took, all, p50: at(0.5), p99: at(0.99), max: sorted.at(-1) };
    },
    quit: async () => {
      await system.end();
      return {};
    },
  };
}

/** Serves the harness until its end. */
export async function serve(system) {
  const all = commands(system);
  for await (const line of createInterface({ input: process.stdin })) {
    const { do: name, ...options } = JSON.parse(line);
    let answer;
    try {
      answer = await all[name](options);
    } catch (error) {
      answer = { error: String(error?.stack ?? error) };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
    if (name === "quit") break;
  }
  process.exit(0);
}
