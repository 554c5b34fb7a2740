// How often handlers run. The API counts the runs of a handler but has no rates: two readings of the counts make one.

import { rate } from "./text.js";

const WINDOW = 600_000; // ms
const STEP = 5000; // ms between two readings that are kept

const readings = new Map(); // by handler, the oldest first; they outlive the pages

/** Let `load` remember the counts of the handlers that it loads. `found` takes them from what it loads. */
export const observed = (load, found) => async (path, options) => {
  const data = await load(path, options);
  for (const one of found(data)) observe(one.name, one.stats.runs);
  return data;
};

function observe(name, runs) {
  const seen = readings.get(name) ?? [];
  readings.set(name, seen);
  if (seen.length > 1 && seen.at(-1).at - seen.at(-2).at < STEP) seen.pop();
  const dead = runs.dead ?? 0;
  seen.push({ at: performance.now(), ended: (runs.succeeded ?? 0) + dead, dead });
  while (seen.length > 2 && seen.at(-1).at - seen[1].at > WINDOW) seen.shift();
}

/** Runs of a handler that ended and died in a minute, and the seconds that were looked at. Null before two readings. */
export function ratesOf(name) {
  const seen = readings.get(name) ?? [];
  const sum = { seconds: 0, ended: 0, dead: 0 };
  for (let at = 1; at < seen.length; at += 1) {
    const [before, after] = [seen[at - 1], seen[at]];
    if (after.ended < before.ended || after.dead < before.dead) continue; // some were removed or retried meanwhile
    sum.seconds += (after.at - before.at) / 1000;
    sum.ended += after.ended - before.ended;
    sum.dead += after.dead - before.dead;
  }
  if (!sum.seconds) return null;
  return { seconds: sum.seconds, ended: (sum.ended / sum.seconds) * 60, dead: (sum.dead / sum.seconds) * 60 };
}

/** A rate of a handler as text: `ended` or `dead`. */
export const perMinute = (name, what) => rate(ratesOf(name)?.[what] ?? null);
