// Runs that failed for good, grouped by their error, so that a thousand of one cause are one line.

import { all, post, query as withQuery, useQuery } from "../api.js";
import { html, useMemo, useState } from "../lib.js";
import { change, link } from "../router.js";
import { number, plain, plural } from "../text.js";
import { Action, Empty, Field, Loaded, Name, Page, State, Table, Text, Time } from "../ui.js";
import { RunActions } from "./event.js";
import { Comparison } from "./revisions.js";

const MOST = 5000; // runs that are grouped
const LISTED = 50; // runs of a group that are listed
const PARALLEL = 4;
const STATES = { dead: "Dead", retryable: "Will retry", cancelled: "Cancelled" };

const load = (path, options) => all(path, { ...options, most: MOST });

export function Dead({ query }) {
  const state = query.get("state") ?? "dead";
  const handler = query.get("handler") ?? "";
  const runs = useQuery(withQuery("v1/runs", { state, handler }), { load, every: 10_000 });
  const handlers = useQuery("v1/handlers", { load: all });
  const groups = useMemo(() => grouped(runs.data?.items ?? []), [runs.data]);
  const revisions = new Map((handlers.data?.items ?? []).map((one) => [one.name, one.revision]));
  const body = handler ? { state, handler } : { state };
  const count = runs.data?.items.length ?? 0;
  const whose = handler ? ` of ${handler}` : "";
  const actions = count > 0 && state !== "retryable" && html`<${Action} kind="primary" name="retry-all" run=${() => post("v1/runs/retry", body).then((told) => (runs.reload(), told))} done=${(told) => `${plural(told.retried, "run")} retried`}
    confirm=${{ title: `Retry all ${state} runs${whose}?`, text: "Each gets as many attempts as its handler allows.", yes: "Retry all" }}>Retry all${whose}<//>`;
  return html`<${Page} title="Dead runs" about="Runs that failed for good or wait after a failure, by error." actions=${actions}>
    <div class="filters">
      <div class="tabs" role="group" aria-label="State">${Object.entries(STATES).map(([name, label]) => html`<button type="button" aria-pressed=${state === name} onClick=${() => change({ state: name === "dead" ? null : name })}>${label}</button>`)}</div>
      <${Field} label="Handler"><select name="handler" onChange=${(event) => change({ handler: event.target.value })}>
        <option value="" selected=${!handler}>all</option>
        ${(handlers.data?.items ?? []).map((one) => html`<option value=${one.name} selected=${one.name === handler}>${one.name}</option>`)}
      </select><//>
    </div>
    <${Loaded} of=${runs}>${({ more }) => html`
      ${more && html`<p class="dim">Only the newest ${number(MOST)} are grouped; there are more.</p>`}
      ${groups.map((group) => html`<${Group} key=${group.key} group=${group} state=${state} current=${revisions.get(group.handler)} reload=${runs.reload} />`)}
      ${!groups.length && html`<${Empty} title=${state === "dead" ? "No dead runs." : "None."}><p>${state === "dead" ? "A run is dead when its last attempt failed. It stays here until you retry it or the retention removes it." : "Nothing in this state."}</p><//>`}
    `}<//>
  <//>`;
}

/** An error without what differs from run to run: numbers, and what stands in quotes. */
const form = (message) => message.slice(0, 300).replace(/'[^']*'|"[^"]*"/g, "'…'").replace(/\d+/g, "#");

function grouped(runs) {
  const groups = new Map();
  for (const run of runs) {
    const key = `${run.handler} ${run.error?.type} ${form(run.error?.message ?? "")}`;
    if (!groups.has(key)) groups.set(key, { key, handler: run.handler, error: run.error, runs: [] });
    groups.get(key).runs.push(run);
  }
  return [...groups.values()].sort((a, b) => b.runs.length - a.runs.length);
}

/** Do something for each run, some at a time. Returns for how many it succeeded. */
async function each(runs, act) {
  const left = [...runs];
  let done = 0;
  const work = async () => {
    for (let run = left.shift(); run; run = left.shift()) {
      try {
        await act(run);
        done += 1;
      } catch (problem) {
        if (problem.status !== 409 && problem.status !== 404) throw problem; // meanwhile it is in another state
      }
    }
  };
  await Promise.all(Array.from({ length: PARALLEL }, work));
  return done;
}

function Group({ group, state, current, reload }) {
  const [open, setOpen] = useState(false);
  const [chosen, setChosen] = useState(new Set());
  const newest = group.runs[0];
  const sample = useQuery(`v1/runs/${newest.id}`);
  const traceback = sample.data?.error?.traceback ?? null;
  const picked = chosen.size ? group.runs.filter((run) => chosen.has(run.id)) : group.runs;
  const word = `${chosen.size ? "selected " : ""}${number(picked.length)}`;
  const act = (verb) => async () => {
    const done = await each(picked, (run) => (verb === "retry" ? post(`v1/runs/${run.id}/retry`) : post(`v1/runs/${run.id}/cancel`)));
    setChosen(new Set());
    reload();
    return done;
  };
  const choose = (id) => setChosen((old) => {
    const next = new Set(old);
    if (!next.delete(id)) next.add(id);
    return next;
  });
  return html`<section class="attempt" aria-label=${`${group.handler}: ${group.error?.type ?? state}`} data-section="group">
    <header class="section">
      <div class="what"><p><${State} state=${state} /> <strong>${plural(group.runs.length, "run")}</strong> of <a href=${link(`/handlers/${group.handler}`)}>${group.handler}</a>, newest <${Time} at=${newest.finished_at ?? newest.created_at} /></p>
        <p class="error"><strong><${Name} text=${group.error?.type ?? "no error"} /></strong>: <${Name} text=${group.error?.message ?? ""} most=${300} /></p>
        <p class="dim">${place(traceback)}</p>
      </div>
      <div class="buttons">
        <${Action} name="retry-group" run=${act("retry")} done=${(done) => `${plural(done, "run")} retried`}>Retry ${word}<//>
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

/** The last line of the user's code in a traceback. */
function place(traceback) {
  if (!traceback) return null;
  const found = [...traceback.matchAll(/File "([^"]+)", line (\d+), in (\S+)/g)].at(-1);
  return found && html`<code>${plain(found[1].split("/").slice(-2).join("/"))}:${found[2]}</code> in <code>${plain(found[3])}</code>.`;
}

function Changed({ name, failed, current }) {
  const [open, setOpen] = useState(false);
  if (!failed || !current) return null;
  if (failed === current) return html`<p class="dim">The handler has not changed since (revision ${current}).</p>`;
  return html`<p class="dim">It failed under revision ${failed}; since then the handler has changed to revision ${current}.${" "}
      <button type="button" class="small" aria-expanded=${open} onClick=${() => setOpen(!open)} data-action="what-changed">${open ? "Hide" : "Show"} what changed</button></p>
    ${open && html`<${Comparison} name=${name} from=${failed} to=${current} />`}`;
}
