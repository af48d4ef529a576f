// Runs all systems, one at a time and in turn, on one Postgres. See README.md.

import { readFileSync, mkdirSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { parseArgs } from "node:util";
import pg from "pg";
import { cpu, cpuOfAll, parentOf, sizes, Talker } from "./measure.mjs";
import { table } from "./report.mjs";
import { systems } from "./systems.mjs";

const { values: given } = parseArgs({
  options: {
    jobs: { type: "string", default: "20000" },
    single: { type: "string", default: "1000" },
    batch: { type: "string", default: "500" },
    rate: { type: "string", default: "200" },
    seconds: { type: "string", default: "5" },
    most: { type: "string", default: "6" },
    rounds: { type: "string", default: "1" },
    finished: { type: "string", default: "0" },
    laps: { type: "string", default: "0" },
    only: { type: "string" },
    fsync: { type: "boolean", default: false },
    out: { type: "string", default: "target/peers" },
    program: { type: "string" },
    river: { type: "string" },
    postgres: { type: "string" },
  },
});
const number = (name) => {
  const value = Number(given[name]);
  if (!Number.isFinite(value) || value < 0) throw new Error(`--${name} is not a number`);
  return value;
};
const [jobs, single, batch, rate, seconds, most, rounds, finished, laps] = [
  "jobs", "single", "batch", "rate", "seconds", "most", "rounds", "finished", "laps",
].map(number);

/** Jobs worked off before anything is measured. */
const WARM_UP = 1000;

/** Databases of earlier measurements are gone before a new one begins. */
const PAUSE_MS = 300;

const all = systems({ program: given.program, river: given.river, node: process.execPath });
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

async function connect(url) {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  return client;
}

const withDatabase = (url, name) => Object.assign(new URL(url), { pathname: `/${name}` }).href;

/** One command of a client, and what it costs on both sides. */
async function measured(place, talker, command) {
  const before = { client: cpu(talker.pid), server: cpuOfAll(place.postmaster), wal: await lsn(place) };
  const answer = await talker.ask(command);
  const wal = await lsn(place);
  const per = Math.max(answer.jobs, 1);
  return {
    ...answer,
    perSecond: answer.jobs / answer.seconds,
    clientCpuPer1000: ((cpu(talker.pid) - before.client) * 1000) / per,
    serverCpuPer1000: ((cpuOfAll(place.postmaster) - before.server) * 1000) / per,
    walPerJob: (wal - before.wal) / per,
  };
}

async function lsn(place) {
  const { rows } = await place.admin.query("select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8 as at");
  return rows[0].at;
}

const drop = (place, name) => place.admin.query(`drop database if exists ${name} with (force)`);

/** A database with finished rows, made once and then copied. */
async function seeded(place, id) {
  const name = `seed_${id}`;
  if (place.seeds.has(name)) return name;
  const system = all[id];
  await drop(place, name);
  await place.admin.query(`create database ${name}`);
  const url = withDatabase(place.url, name);
  const talker = new Talker(system.client(url, system.seedSetting ?? "default"));
  try {
    await talker.ask({ do: "setup" });
    await talker.ask({ do: "insert", jobs: 1, batch: 1 });
    await talker.ask({ do: "drain", jobs: 1, most: 10 });
    await talker.ask({ do: "quit" });
  } finally {
    await talker.end();
  }
  const client = await connect(url);
  await client.query(system.seed.replaceAll("COUNT", String(finished)));
  await client.query("vacuum analyze");
  await client.end();
  place.seeds.add(name);
  return name;
}

/** The same again and again in one database, to see whether it grows slower. */
async function runLaps(talker, url, schema) {
  const client = await connect(url);
  const found = [];
  for (let lap = 1; lap <= laps; lap += 1) {
    const insert = await talker.ask({ do: "insert", jobs, batch });
    const drain = await talker.ask({ do: "drain", jobs, most });
    const { dead, bytes } = await sizes(client, schema);
    found.push({ lap, added: insert.jobs / insert.seconds, workedOff: drain.jobs / drain.seconds, dead, bytes });
    if (drain.jobs < jobs) break;
  }
  await client.end();
  return found;
}

async function measure(place, id, setting, round) {
  const system = all[id];
  const name = `peers_${id}`;
  await drop(place, name);
  const template = finished > 0 ? ` template ${await seeded(place, id)} strategy file_copy` : "";
  await place.admin.query(`create database ${name}${template}`);
  // Nobody pays for what came before.
  await place.admin.query("checkpoint");
  const url = withDatabase(place.url, name);
  const talker = new Talker(system.client(url, setting));
  const found = { system: id, name: system.name, setting, round, finished };
  try {
    await talker.ask({ do: "setup" });
    const client = await connect(url);
    found.before = await sizes(client, system.schema);
    await client.end();
    await talker.ask({ do: "insert", jobs: WARM_UP, batch });
    await talker.ask({ do: "drain", jobs: WARM_UP, most });
    found.single = await measured(place, talker, { do: "insert", jobs: single, batch: 1 });
    found.insert = await measured(place, talker, { do: "insert", jobs: jobs - single, batch });
    found.drain = await measured(place, talker, { do: "drain", jobs, most });
    if (!system.unsteady?.includes(setting)) {
      found.steady = await measured(place, talker, { do: "steady", rate, seconds });
      if (system.apart) found.apart = await measured(place, talker, { do: "steady", rate, seconds, apart: true });
    }
    found.laps = await runLaps(talker, url, system.schema);
    await talker.ask({ do: "quit" });
  } finally {
    await talker.end();
  }
  const client = await connect(url);
  found.after = await sizes(client, system.schema);
  await client.end();
  await drop(place, name);
  return found;
}

function versions() {
  const lock = JSON.parse(readFileSync(new URL("package-lock.json", import.meta.url), "utf8"));
  const of = (name) => lock.packages[`node_modules/${name}`].version;
  const river = /riverqueue\/river (v\S+)/.exec(readFileSync(new URL("river/go.mod", import.meta.url), "utf8"))[1];
  return { "graphile-worker": of("graphile-worker"), "pg-boss": of("pg-boss"), River: river, "Node.js": process.version };
}

async function run(place) {
  const { rows: [{ version }] } = await place.admin.query("select version()");
  const { rows: settings } = await place.admin.query(
    `select name, setting || coalesce(unit, '') as value from pg_settings
     where name in ('fsync', 'synchronous_commit', 'full_page_writes', 'shared_buffers', 'max_wal_size', 'wal_level',
                    'autovacuum', 'autovacuum_naptime', 'max_connections') order by name`,
  );
  const about = {
    at: new Date().toISOString(), postgres: version, versions: versions(),
    settings: Object.fromEntries(settings.map(({ name, value }) => [name, value])),
    machine: `${cpus().length} × ${cpus()[0].model}`,
    options: { jobs, single, batch, rate, seconds, most, rounds, finished, laps },
  };
  console.error(JSON.stringify(about, null, 2));
  const only = given.only?.split(",");
  const results = [];
  for (let round = 1; round <= rounds; round += 1) {
    for (const [id, system] of Object.entries(all)) {
      const settings = (finished > 0 && system.settingsBehind) || system.settings;
      for (const setting of settings) {
        if (only && !only.includes(id) && !only.includes(`${id}-${setting}`)) continue;
        const found = await measure(place, id, setting, round);
        results.push(found);
        const rates = [found.insert, found.drain].map((one) => Math.round(one.perSecond));
        console.error(`${round}/${rounds} ${id} ${setting}: ${rates[0]} added, ${rates[1]} worked off a second`);
        await sleep(PAUSE_MS);
      }
      // They may be large.
      if (round === rounds && place.seeds.delete(`seed_${id}`)) await drop(place, `seed_${id}`);
    }
  }
  mkdirSync(given.out, { recursive: true });
  const base = `${given.out}/${finished > 0 ? `finished-${finished}` : "empty"}${given.fsync ? "-fsync" : ""}`;
  writeFileSync(`${base}.json`, `${JSON.stringify({ about, results }, null, 1)}\n`);
  const text = table(about, results, all);
  writeFileSync(`${base}.md`, text);
  console.log(text);
  console.error(`written: ${base}.json, ${base}.md`);
}

const server = new Talker([given.program, "server", ...(given.postgres ? [given.postgres] : [])]);
try {
  const { url } = await server.hear();
  const admin = await connect(url);
  const { rows: [{ pid }] } = await admin.query("select pg_backend_pid() as pid");
  const place = { url, admin, postmaster: parentOf(pid), seeds: new Set() };
  if (given.fsync) {
    for (const name of ["fsync", "full_page_writes"]) await admin.query(`alter system set ${name} = on`);
    await admin.query("select pg_reload_conf()");
    await sleep(PAUSE_MS);
  }
  await run(place);
  await admin.end();
} finally {
  await server.end();
}
