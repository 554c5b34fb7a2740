// Runs that failed for good, grouped by error and place in the code, so that a thousand of one cause are one line.

import { all, post, query as withQuery, useQuery } from "../api.js";
import { html, useMemo, useRef, useState } from "../lib.js";
import { placeOf, readPlaces } from "../places.js";
import { change, link } from "../router.js";
import { number, plain, plural } from "../text.js";
import { Action, Empty, Field, Loaded, Name, Page, State, Table, Text, Time } from "../ui.js";
import { RunActions } from "./event.js";
import { Comparison } from "./revisions.js";

const MOST = 5000; // runs that are grouped
const PLACED = 200; // runs whose place in the code is read at first, and more when asked
const LISTED = 50; // runs of a group that are listed
const PARALLEL = 4;
const NOUNS = { dead: "dead run", retryable: "waiting run", cancelled: "cancelled run" };
const STATES = { dead: "Dead", retryable: "Will retry", cancelled: "Cancelled" };

export function Dead({ query }) {
  const state = query.get("state") ?? "dead";
  const handler = query.get("handler") ?? "";
  const placed = useRef(PLACED);
  const load = async (path, options) => {
    const page = await all(path, { ...options, most: MOST });
    await readPlaces([...together(page.items, cause).values()], placed.current, options);
    return page;
  };
  const path = withQuery("v1/runs", { state, handler });
  const runs = useQuery(path, { load, every: 10_000 });
  const handlers = useQuery("v1/handlers", { load: all, every: 10_000 });
  const groups = useMemo(() => grouped(runs.data?.items ?? []), [runs.data]);
  const known = handlers.data?.items ?? [];
  const revisions = new Map(known.map((one) => [one.name, one.revision]));
  const counted = known.reduce((sum, one) => sum + (handler && handler !== one.name ? 0 : (one.stats.runs[state] ?? 0)), 0);
  const count = runs.data?.more ? Math.max(counted, MOST) : (runs.data?.items.length ?? 0);
  const more = () => {
    placed.current += PLACED;
    return runs.reload();
  };
  const actions = count > 0 && html`<${Everything} state=${state} handler=${handler} count=${count} path=${path} reload=${runs.reload} />`;
  return html`<${Page} title="Dead runs" about="Runs that failed for good or wait after a failure, by error and place in the code." actions=${actions}>
    <div class="filters">
      <div class="tabs" role="group" aria-label="State">${Object.entries(STATES).map(([name, label]) => html`<button type="button" aria-pressed=${state === name} onClick=${() => change({ state: name === "dead" ? null : name })}>${label}</button>`)}</div>
      <${Field} label="Handler"><select name="handler" onChange=${(event) => change({ handler: event.target.value })}>
        <option value="" selected=${!handler}>all</option>
        ${(handlers.data?.items ?? []).map((one) => html`<option value=${one.name} selected=${one.name === handler}>${one.name}</option>`)}
      </select><//>
    </div>
    <${Loaded} of=${runs}>${({ more }) => html`
      ${more && html`<p class="dim">Only the newest ${number(MOST)} are grouped; there are more.</p>`}
      ${groups.map((group) => html`<${Group} key=${group.key} group=${group} state=${state} current=${revisions.get(group.handler)} reload=${runs.reload} more=${more} />`)}
      ${!groups.length && html`<${Empty} title=${state === "dead" ? "No dead runs." : "None."}><p>${state === "dead" ? "A run is dead when its last attempt failed. It stays here until you retry it or the retention removes it." : "Nothing in this state."}</p><//>`}
    `}<//>
  <//>`;
}

/** Retry or cancel all runs of the page. Only for dead and cancelled runs the API has one request for all. */
function Everything({ state, handler, count, path, reload }) {
  const what = `all ${plural(count, NOUNS[state])}${handler ? ` of ${handler}` : ""}`;
  const one = (verb) => async () => {
    const { items } = await all(path, { most: Infinity });
    const done = await each(items, verb);
    reload();
    return done;
  };
  const body = handler ? { state, handler } : { state };
  const inOne = () => post("v1/runs/retry", body).then((told) => (reload(), told.retried));
  return html`
    <${Action} kind="primary" name="retry-all" run=${state === "retryable" ? one("retry") : inOne} done=${(done) => `${plural(done, "run")} retried`}
      confirm=${{ title: `Retry ${what}?`, text: state === "retryable" ? "They start now, without the delay that is left." : "Each gets as many attempts as its handler allows.", yes: "Retry all" }}>Retry all ${number(count)}<//>
    ${state === "retryable" && html`<${Action} kind="danger" name="cancel-all" run=${one("cancel")} done=${(done) => `${plural(done, "run")} cancelled`}
      confirm=${{ title: `Cancel ${what}?`, text: "They never start again by themselves.", yes: "Cancel all" }}>Cancel all ${number(count)}<//>`}
  `;
}

/** An error without what differs from run to run: numbers, and what stands in quotes. */
const form = (message) => message.slice(0, 300).replace(/'[^']*'|"[^"]*"/g, "'…'").replace(/\d+/g, "#");

const cause = (run) => `${run.handler} ${run.error?.type} ${form(run.error?.message ?? "")}`;

function together(runs, by) {
  const groups = new Map();
  for (const run of runs) {
    const key = by(run);
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(run);
  }
  return groups;
}

function grouped(runs) {
  const groups = [...together(runs, (run) => `${cause(run)} ${placeOf(run)}`)];
  return groups.map(([key, of]) => ({ key, handler: of[0].handler, error: of[0].error, place: placeOf(of[0]), runs: of })).sort((a, b) => b.runs.length - a.runs.length);
}

/** Retry or cancel each run, some at a time. Returns for how many it succeeded. */
async function each(runs, verb) {
  const left = [...runs];
  let done = 0;
  const work = async () => {
    for (let run = left.shift(); run; run = left.shift()) {
      try {
        await post(verb === "retry" ? `v1/runs/${run.id}/retry` : `v1/runs/${run.id}/cancel`);
        done += 1;
      } catch (problem) {
        if (problem.status === 409 || problem.status === 404) continue; // meanwhile it is in another state
        left.length = 0;
        throw problem;
      }
    }
  };
  await Promise.all(Array.from({ length: PARALLEL }, work));
  return done;
}

function Group({ group, state, current, reload, more }) {
  const [open, setOpen] = useState(false);
  const [chosen, setChosen] = useState(new Set());
  const newest = group.runs[0];
  const sample = useQuery(open ? `v1/runs/${newest.id}` : null);
  const traceback = sample.data?.error?.traceback ?? null;
  const picked = chosen.size ? group.runs.filter((run) => chosen.has(run.id)) : group.runs;
  const word = `${chosen.size ? "selected " : ""}${number(picked.length)}`;
  const act = (verb) => async () => {
    const done = await each(picked, verb);
    setChosen(new Set());
    reload();
    return done;
  };
  const choose = (id) => setChosen((old) => {
    const next = new Set(old);
    if (!next.delete(id)) next.add(id);
    return next;
  });
  return html`<section class="attempt" aria-label=${plain(`${group.handler}: ${group.error?.type ?? state}: ${group.error?.message.slice(0, 80) ?? ""} ${group.place ?? ""}`)} data-section="group">
    <header class="section">
      <div class="what"><p><${State} state=${state} /> <strong>${plural(group.runs.length, "run")}</strong> of <a href=${link(`/handlers/${group.handler}`)}>${group.handler}</a>, newest <${Time} at=${newest.finished_at ?? newest.created_at} /></p>
        <p class="error"><strong><${Name} text=${group.error?.type ?? "no error"} /></strong>: <${Name} text=${group.error?.message ?? ""} most=${300} /></p>
        ${group.place && html`<p class="dim" data-place>at <code>${group.place}</code></p>`}
        ${group.place === undefined && html`<p class="dim">Where these failed is not read yet. <${Action} kind="small" name="more-places" run=${more}>Read more<//></p>`}
      </div>
      <div class="buttons">
        <${Action} name="retry-group" run=${act("retry")} done=${(done) => `${plural(done, "run")} retried`}
          confirm=${picked.length > 1 && { title: `Retry ${word} of ${group.handler}?`, text: state === "retryable" ? "They start now, without the delay that is left." : "Each gets as many attempts as its handler allows.", yes: "Retry them" }}>Retry ${word}<//>
        ${state === "retryable" && html`<${Action} kind="danger" name="cancel-group" run=${act("cancel")} done=${(done) => `${plural(done, "run")} cancelled`}
          confirm=${{ title: `Cancel ${word} of ${group.handler}?`, text: "They never start again by themselves.", yes: "Cancel them" }}>Cancel ${word}<//>`}
        <button type="button" aria-expanded=${open} onClick=${() => setOpen(!open)}>${open ? "Hide" : "Show"} runs</button>
      </div>
    </header>
    <${Changed} name=${group.handler} failed=${newest.revision} current=${current} />
    ${open && html`
      ${traceback && html`<details><summary>Stack of the newest</summary><${Text} text=${traceback} label="Stack" /></details>`}
      <${Table} label=${`Runs of ${group.handler}`} rows=${group.runs.slice(0, LISTED)} id=${(run) => run.id} href=${(run) => link(`/events/${run.event}`, { run: run.id })}
        columns=${[
          { name: "Run", kind: "num", cell: (run) => number(run.id) },
          { name: "Choose", cell: (run) => html`<input type="checkbox" aria-label=${`Run ${run.id}`} checked=${chosen.has(run.id)} onChange=${() => choose(run.id)} />` },
          { name: "Event", kind: "num", cell: (run) => number(run.event) },
          { name: "Attempts", kind: "num wide", cell: (run) => `${run.attempt} of ${run.max_attempts}` },
          { name: "When", cell: (run) => html`<${Time} at=${run.finished_at ?? run.created_at} />` },
          { name: "Message", kind: "grow", cell: (run) => html`<${Name} text=${run.error?.message ?? ""} most=${160} />` },
          { name: "", cell: (run) => html`<div class="buttons"><${RunActions} run=${run} reload=${reload} /></div>` },
        ]} />
      ${group.runs.length > LISTED && html`<p class="dim">${number(group.runs.length - LISTED)} more are in the group. <a href=${link("/runs", { state, handler: group.handler })}>All runs</a></p>`}
    `}
  </section>`;
}

function Changed({ name, failed, current }) {
  const [open, setOpen] = useState(false);
  if (!failed || !current) return null;
  if (failed === current) return html`<p class="dim">The handler has not changed since (revision ${current}).</p>`;
  return html`<p class="dim">It failed under revision ${failed}; since then the handler has changed to revision ${current}.${" "}
      <button type="button" class="small" aria-expanded=${open} onClick=${() => setOpen(!open)} data-action="what-changed">${open ? "Hide" : "Show"} what changed</button></p>
    ${open && html`<${Comparison} name=${name} from=${failed} to=${current} />`}`;
}
