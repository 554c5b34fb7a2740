// Where in the code runs failed. Lists of runs have no tracebacks: they are read run by run, so only for some.

import { get, Unreachable } from "./api.js";
import { plain } from "./text.js";

const PARALLEL = 4;
const KEPT = 20_000; // places in memory

const known = new Map(); // by run and attempt: what was read does not change

const key = (run) => `${run.id} ${run.attempt}`;

/** Where a run failed, as text: "" if nothing says it, undefined if it was not read. */
export const placeOf = (run) => (placeless(run) ? "" : known.get(key(run)));

const placeless = (run) => run.error === null || run.attempt === 0 || run.error.type === "Cancelled";

/** Read where runs failed, at most `most` of them: the newest of each group in turn. */
export async function readPlaces(groups, most, { signal }) {
  const left = [];
  const longest = Math.max(0, ...groups.map((runs) => runs.length));
  for (let at = 0; at < longest && left.length < most; at += 1) {
    for (const runs of groups) if (at < runs.length && left.length < most) left.push(runs[at]);
  }
  const unread = left.filter((run) => placeOf(run) === undefined);
  const work = async () => {
    for (let run = unread.shift(); run; run = unread.shift()) {
      try {
        const { attempt, error } = await get(`v1/runs/${run.id}`, { signal });
        if (attempt === run.attempt) remember(key(run), within(error?.traceback));
      } catch (problem) {
        if (problem instanceof Unreachable || problem.name === "AbortError" || problem.status === 401) throw problem; // another is deleted or comes later
      }
    }
  };
  await Promise.all(Array.from({ length: PARALLEL }, work));
}

function remember(name, place) {
  if (known.size >= KEPT) known.delete(known.keys().next().value);
  known.set(name, place);
}

const LIBRARY = /[/\\](site-packages|dist-packages|lib[/\\]python[\d.]+)[/\\]|^</;

/** The last line of a traceback that is not in a library: file, line and function. */
function within(traceback) {
  if (!traceback) return "";
  const frames = [...traceback.matchAll(/File "([^"]+)", line (\d+), in (\S+)/g)];
  const found = frames.findLast(([, file]) => !LIBRARY.test(file)) ?? frames.at(-1);
  return found ? plain(`${found[1].split(/[/\\]/).slice(-2).join("/")}:${found[2]} in ${found[3]}`) : "";
}
