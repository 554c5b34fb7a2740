import { all, query as withQuery, useQuery } from "../api.js";
import { html } from "../lib.js";
import { change, link } from "../router.js";
import { number } from "../text.js";
import { Field, Loaded, Name, Page, Pages, State, Table, Time } from "../ui.js";
import { RunActions } from "./event.js";

const STATES = ["available", "running", "retryable", "succeeded", "dead", "cancelled"];

export function Runs({ query }) {
  const state = query.get("state") ?? "";
  const handler = query.get("handler") ?? "";
  const handlers = useQuery("v1/handlers", { load: all });
  const after = query.get("after");
  const runs = useQuery(withQuery("v1/runs", { state, handler, limit: 50, after }), { every: after === null ? 2000 : 0 });
  const set = (name) => (event) => {
    change({ [name]: event.target.value, after: null });
  };
  return html`<${Page} title="Runs" about="One event, run by one handler. The newest first.">
    <div class="filters">
      <${Field} label="State"><select name="state" onChange=${set("state")}><option value="" selected=${!state}>all</option>${STATES.map((each) => html`<option value=${each} selected=${each === state}>${each}</option>`)}</select><//>
      <${Field} label="Handler"><select name="handler" onChange=${set("handler")}><option value="" selected=${!handler}>all</option>${(handlers.data?.items ?? []).map((one) => html`<option value=${one.name} selected=${one.name === handler}>${one.name}</option>`)}</select><//>
    </div>
    <${Loaded} of=${runs}>${({ items }) => html`
      <${Table} label="Runs" rows=${items} id=${(run) => run.id} href=${(run) => link(`/events/${run.event}`, { run: run.id })} empty="No run matches."
        columns=${[
          { name: "Run", kind: "num", cell: (run) => number(run.id) },
          { name: "State", cell: (run) => html`<${State} state=${run.state} />` },
          { name: "Handler", cell: (run) => html`<${Name} text=${run.handler} />` },
          { name: "Event", kind: "num wide", cell: (run) => number(run.event) },
          { name: "Attempts", kind: "num wide", cell: (run) => `${run.attempt} of ${run.max_attempts}` },
          { name: "Created", cell: (run) => html`<${Time} at=${run.created_at} />` },
          { name: "Error", kind: "grow", cell: (run) => run.error && html`<${Name} text=${`${run.error.type}: ${run.error.message}`} most=${120} />` },
          { name: "", cell: (run) => html`<div class="buttons"><${RunActions} run=${run} reload=${runs.reload} /></div>` },
        ]} />
    `}<//>
    <${Pages} after=${after} next=${runs.data?.next} />
  <//>`;
}
