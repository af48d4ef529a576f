// What work costs: CPU time from /proc, and figures of the database.

import { readFileSync, readdirSync } from "node:fs";
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

/** Of the kernel's clock; the same on all Linux machines that are in use. */
const TICKS_PER_SECOND = 100;

function stat(pid) {
  const text = readFileSync(`/proc/${pid}/stat`, "latin1");
  // The name may hold anything, but ends with the last bracket.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ").map(Number);
  const [, parent] = fields;
  const [user, system, childUser, childSystem] = fields.slice(11, 15);
  return { parent, own: user + system, children: childUser + childSystem };
}

/** Seconds of CPU time of one process. */
export const cpu = (pid) => stat(pid).own / TICKS_PER_SECOND;

/** Seconds of CPU time of a process and all that it ever started and has waited for, or still runs. */
export function cpuOfAll(pid) {
  for (;;) {
    const { own, children } = stat(pid);
    let ticks = own + children;
    for (const entry of readdirSync("/proc")) {
      if (!/^\d+$/.test(entry)) continue;
      try {
        const child = stat(entry);
        if (child.parent === pid) ticks += child.own + child.children;
      } catch {
        // It has just ended.
      }
    }
    // Whatever ended meanwhile may have been counted by neither.
    if (stat(pid).children === children) return ticks / TICKS_PER_SECOND;
  }
}

/** The parent of a process. */
export const parentOf = (pid) => stat(pid).parent;

/** A process that is told lines of JSON and answers each with one. */
export class Talker {
  constructor([program, ...args]) {
    this.process = spawn(program, args, { stdio: ["pipe", "pipe", "inherit"] });
    this.lines = createInterface({ input: this.process.stdout })[Symbol.asyncIterator]();
    this.ended = new Promise((done, fail) => {
      this.process.once("exit", done);
      this.process.once("error", fail);
    });
    this.ended.catch(() => {});
  }
  get pid() {
    return this.process.pid;
  }
  async hear() {
    const { value, done } = await this.lines.next();
    if (done) throw new Error(`${this.process.spawnfile} has ended`);
    const answer = JSON.parse(value);
    if (answer.error) throw new Error(answer.error);
    return answer;
  }
  ask(command) {
    this.process.stdin.write(`${JSON.stringify(command)}\n`);
    return this.hear();
  }
  /** Ends it, however it is. */
  async end() {
    this.process.stdin.end();
    const late = setTimeout(() => this.process.kill("SIGKILL"), 20_000);
    await this.ended.catch(() => {});
    clearTimeout(late);
  }
}

/** Rows dead and bytes of all tables of a schema. */
export async function sizes(client, schema) {
  const { rows } = await client.query(
    `select coalesce(sum(n_dead_tup), 0)::float8 as dead, coalesce(sum(pg_total_relation_size(relid)), 0)::float8 as bytes
     from pg_stat_user_tables where schemaname = $1`,
    [schema],
  );
  return rows[0];
}

export function median(numbers) {
  const sorted = numbers.filter((one) => one !== undefined && one !== null).sort((one, other) => one - other);
  if (sorted.length === 0) return undefined;
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
