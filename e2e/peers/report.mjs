// A table for people: medians over the rounds.

import { median } from "./measure.mjs";

const round = (value, digits = 0) =>
  value === undefined || Number.isNaN(value) ? "—" : value.toLocaleString("en-US", { maximumFractionDigits: digits, minimumFractionDigits: digits });

const COLUMNS = [
  ["added/s, batches", (one) => one.insert.perSecond, 0],
  ["added/s, singly", (one) => one.single.perSecond, 0],
  ["worked off/s", (one) => one.drain.perSecond, 0],
  ["p50 ms", (one) => (one.steady?.all ? one.steady.p50 : undefined), 1],
  ["p99 ms", (one) => (one.steady?.all ? one.steady.p99 : undefined), 1],
  ["CPU s/1,000: add, client", (one) => one.insert.clientCpuPer1000, 3],
  ["add, server", (one) => one.insert.serverCpuPer1000, 3],
  ["work, client", (one) => one.drain.clientCpuPer1000, 3],
  ["work, server", (one) => one.drain.serverCpuPer1000, 3],
  ["WAL B/job: add", (one) => one.insert.walPerJob, 0],
  ["work", (one) => one.drain.walPerJob, 0],
  ["dead rows", (one) => one.after.dead, 0],
  ["MB at the end", (one) => one.after.bytes / 1e6, 1],
];

const LAPS = [
  ["", (one) => one.lap, 0],
  ["added/s", (one) => one.added, 0],
  ["worked off/s", (one) => one.workedOff, 0],
  ["dead rows", (one) => one.dead, 0],
  ["MB", (one) => one.bytes / 1e6, 1],
];

const line = (cells) => `| ${cells.join(" | ")} |`;

/** Markdown of all that was found. */
export function table(about, results, systems) {
  const groups = Map.groupBy(results, (one) => `${one.name}, ${one.setting}`);
  const rows = [];
  for (const [name, found] of groups) {
    rows.push(line([name, ...COLUMNS.map(([, of, digits]) => round(median(found.map(of)), digits))]));
    const apart = found.filter((one) => one.apart?.all).map((one) => one.apart);
    if (apart.length > 0) {
      const [p50, p99] = [median(apart.map((one) => one.p50)), median(apart.map((one) => one.p99))];
      const cells = COLUMNS.map(([title]) => ({ "p50 ms": round(p50, 1), "p99 ms": round(p99, 1) })[title] ?? "");
      rows.push(line([`${name}, added by another pod`, ...cells]));
    }
  }
  const lapped = results.filter((one) => one.laps?.length > 0).flatMap((one) => [
    "",
    `${one.name}, ${one.setting}, round ${one.round}: the same ${round(about.options.jobs)} jobs again and again:`,
    "",
    line(LAPS.map(([title]) => title)),
    line(LAPS.map(() => "---:")),
    ...one.laps.map((lap) => line(LAPS.map(([, of, digits]) => round(of(lap), digits)))),
  ]);
  const { options, settings } = about;
  const behind = options.finished
    ? Object.values(systems).map(({ name, finished }) => `- ${name}: ${round(options.finished)} ${finished}.`)
    : [];
  return [
    `${about.postgres.split(",")[0]}; ${Object.entries(about.versions).map((pair) => pair.join(" ")).join(", ")}; ${about.machine}.`,
    "",
    `Settings: ${Object.entries(settings).map((pair) => pair.join(" = ")).join(", ")}.`,
    "",
    `${round(options.jobs)} jobs (${round(options.single)} of them added singly, the rest in batches of ${options.batch}); ` +
      `${options.rate} jobs a second for ${options.seconds} s; medians of ${options.rounds} rounds. ` +
      `What took longer than ${options.most} s was cut off.`,
    ...(behind.length > 0 ? ["", "Finished rows:", ...behind] : []),
    "",
    line(["", ...COLUMNS.map(([title]) => title)]),
    line(["---", ...COLUMNS.map(() => "---:")]),
    ...rows,
    ...lapped,
    "",
  ].join("\n");
}
