import { all, post, useQuery } from "../api.js";
import { html } from "../lib.js";
import { change, link } from "../router.js";
import { number, plain } from "../text.js";
import { Action, Json, Loaded, Page, Section, State, Table, Time } from "../ui.js";

const FIRST = 100; // results that are compared while it runs
const MOST = 2000; // and when it has ended

export function Replay({ id, query }) {
  const replay = useQuery(`v1/replays/${id}`, { every: 1000 });
  const running = replay.data?.state === "running";
  const load = (path, options) => all(path, { ...options, most: running ? FIRST : MOST });
  const path = `v1/replays/${id}/results`;
  const results = useQuery(replay.data && (running ? path : `${path}?`), { every: running ? 2000 : 0, load }); // again at its end
  const only = !query.has("all");
  const actions = replay.data?.state === "running" && html`<${Action} kind="danger" name="cancel-replay" run=${() => post(`v1/replays/${id}/cancel`).then(replay.reload)} done="The replay is cancelled">Cancel<//>`;
  return html`<${Page} title=${`Replay ${number(Number(id))}`} actions=${actions}>
    <${Loaded} of=${replay}>${(one) => html`<dl class="pairs">
      <div><dt>handler</dt><dd><a href=${link(`/handlers/${one.handler}`)}>${one.handler}</a></dd></div>
      <div><dt>state</dt><dd><${State} state=${one.state} tone=${one.state === "done" ? "good" : undefined} /></dd></div>
      <div><dt>kind</dt><dd>${one.shadow ? "shadow: nothing is published" : "real"}</dd></div>
      <div><dt>types</dt><dd><code>${plain(one.types.join(", "))}</code></dd></div>
      <div><dt>events</dt><dd>${number(one.matched)} matched, ${number(one.created)} runs</dd></div>
      <div><dt>runs</dt><dd>${Object.entries(one.runs).map(([state, count]) => `${number(count)} ${state}`).join(", ") || "none yet"}</dd></div>
      <div><dt>begun</dt><dd><${Time} at=${one.created_at} /></dd></div>
      <div><dt>finished</dt><dd><${Time} at=${one.finished_at} none="not yet" /></dd></div>
    </dl>`}<//>
    <${Section} title="Compared with the record" name="differences" actions=${html`<label class="check"><input type="checkbox" checked=${only} onChange=${() => change({ all: only ? "yes" : null })} /> Only differences</label>`}>
      <${Loaded} of=${results}>${({ items, more }) => {
        const rows = only ? items.filter(differs) : items;
        return html`<p class="dim">${number(items.filter(differs).length)} of ${more ? "the first " : ""}${number(items.length)} differ.</p>
        <${Table} label="Results" rows=${rows} id=${(each) => each.run.id} href=${(each) => link(`/events/${each.event}`, { run: each.run.id })} empty=${items.length ? "All results are as recorded." : "No run of the replay has finished yet."}
          columns=${[
            { name: "Event", kind: "num", cell: (each) => number(each.event) },
            { name: "Now", cell: (each) => html`<${State} state=${each.run.state} />` },
            { name: "Result now", kind: "grow", cell: (each) => html`<${Shown} item=${each.result} />` },
            { name: "Before", cell: (each) => each.recorded_run && html`<${State} state=${each.recorded_run.state} />` },
            { name: "Result before", kind: "grow", cell: (each) => html`<${Shown} item=${each.recorded_result} />` },
          ]} />`;
      }}<//>
    <//>
  <//>`;
}

const told = (item) => item && JSON.stringify([item.kind, item.data, item.data_base64, item.error]);

const differs = (each) => each.recorded_run === null || told(each.result) !== told(each.recorded_result);

function Shown({ item }) {
  if (!item) return html`<span class="dim">none</span>`;
  if (item.error) return plain(`${item.error.type}: ${item.error.message}`.slice(0, 300));
  return html`<${Json} value=${item.data} binary=${item.data_base64} label="Result" short />`;
}
