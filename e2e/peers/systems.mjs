// The systems: how each is started, where its rows are, and how finished ones are made.

import { fileURLToPath } from "node:url";

const here = (name) => fileURLToPath(new URL(name, import.meta.url));

/** Copies the row of a job that is over, so many times, with new ids. */
const copies = (table, id) => `
do $$
declare
    columns text;
begin
    select string_agg(quote_ident(column_name), ', ') into columns
    from information_schema.columns
    where table_schema || '.' || table_name = '${table}' and column_name <> '${id}' and is_generated = 'NEVER';
    execute format(
        'insert into ${table} (%1$s) select %1$s from (select * from ${table} limit 1) one, generate_series(1, COUNT)',
        columns);
end
$$`;

/** Each with its settings, the command of its client, its schema, and what `--finished` means:
 * `one` jobs are worked off first, then `seed` makes COUNT more. */
export function systems({ program, river, node }) {
  return {
    ours: {
      name: "observers",
      settings: ["default", "batched", "ordered", "near"],
      // With `retention`, since else there are no finished rows to be behind.
      settingsBehind: ["kept", "kept-batched"],
      client: (url, setting) => [program, "ours", url, setting],
      schema: "observer",
      apart: true,
      finished: "rows of `observer.finished_job`, copied by SQL",
      seedSetting: "kept",
      seed: `insert into observer.finished_job
        select id + n, queue, outcome, priority, attempts, enqueued_at, finished_at, dedup_key || '-' || n, event_id, observer,
               action, entity, key, tenant, history, event
        from (select * from observer.finished_job limit 1) one, generate_series(1, COUNT) n`,
    },
    graphile: {
      name: "graphile-worker",
      settings: ["default", "batched"],
      client: (url, setting) => [node, here("graphile.mjs"), url, setting],
      schema: "graphile_worker",
      finished: "permanently failed jobs, made by SQL; it keeps no others",
      seed: `insert into graphile_worker._private_jobs (task_id, payload, attempts, max_attempts, last_error)
        select (select id from graphile_worker._private_tasks limit 1), '{"n": 1, "text": "${"x".repeat(100)}"}', 1, 1, 'failed'
        from generate_series(1, COUNT)`,
    },
    river: {
      name: "River",
      settings: ["default", "batched"],
      client: (url, setting) => [river, url, setting],
      schema: "public",
      finished: "completed jobs, which it keeps for 24 h by itself; copied by SQL",
      seed: copies("public.river_job", "id"),
    },
    boss: {
      name: "pg-boss",
      settings: ["default", "batched"],
      client: (url, setting) => [node, here("boss.mjs"), url, setting],
      schema: "pgboss",
      finished: "completed jobs, which it keeps for 7 days by itself; copied by SQL",
      seed: copies("pgboss.job", "id"),
      // Too slow by default for more than to see how slow, or to be fed at a rate.
      unsteady: ["default"],
    },
  };
}
