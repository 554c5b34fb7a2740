import { all, useQuery } from "../api.js";
import { html } from "../lib.js";
import { observed, perMinute } from "../rates.js";
import { change, link } from "../router.js";
import { duration, number } from "../text.js";
import { Empty, Field, Loaded, Name, Page, Section, State, Table, Text } from "../ui.js";
import { condition, Toggle } from "./overview.js";

const load = observed(all, ({ items }) => items);
const ABOUT = "What runs for which events. Code declares them, or a client over HTTP.";

export function Handlers({ query }) {
  const handlers = useQuery("v1/handlers", { every: 2000, load });
  const targets = useQuery("v1/targets", { every: 5000, load: all });
  const search = query.get("search") ?? "";
  const seen = (one) => !search || `${one.name} ${one.target} ${one.events.join(" ")}`.includes(search);
  return html`<${Page} title="Handlers" about=${ABOUT}>
    <${Broken} files=${targets.data?.items.filter((each) => each.file) ?? []} open=${query.get("broken")} />
    <div class="filters"><${Field} label="Search"><input type="search" name="search" value=${search} onInput=${(event) => change({ search: event.target.value })} placeholder="name, target or type" spellcheck="false" /><//></div>
    <${Loaded} of=${handlers}>${({ items }) => html`<${Table} label="Handlers" rows=${items.filter(seen)} id=${(one) => one.name} href=${(one) => link(`/handlers/${one.name}`)}
      columns=${[
        { name: "Handler", cell: (one) => html`<${Name} text=${one.name} />` },
        { name: "State", cell: (one) => html`<${State} state=${condition(one)} />` },
        { name: "Events", kind: "grow", cell: (one) => html`<code>${one.events.join(", ")}</code>` },
        { name: "Target", kind: "extra", cell: (one) => html`<code><${Name} text=${one.target} /></code>` },
        { name: "Pool", kind: "wide", cell: (one) => html`<span title=${one.placed_in.reason}>${one.placed_in.pool}</span>` },
        { name: "Revision", kind: "num extra", cell: (one) => one.revision },
        { name: "Runs/min", kind: "num", cell: (one) => perMinute(one.name, "ended") },
        { name: "Dead/min", kind: "num wide", cell: (one) => perMinute(one.name, "dead") },
        { name: "Dead", kind: "num", cell: (one) => number(one.stats.runs.dead ?? 0) },
        { name: "p95", kind: "num wide", cell: (one) => duration(one.stats.latency.p95) },
        { name: "", cell: (one) => html`<${Toggle} one=${one} reload=${handlers.reload} />` },
      ]}
      empty=${search ? "No handler matches." : html`<${Empty} title="No handlers yet."><p>Put a Python file with a function under <code>@handler("order.*")</code> into the handlers folder, or start with <code>busway init</code>.</p><//>`} />
      ${items.length > 0 && html`<p class="dim">Rates count the runs that ended, and those of them that are dead, in the last ten minutes, since a page of handlers was first opened.</p>`}`}
    <//>
  <//>`;
}

function Broken({ files, open }) {
  if (!files.length) return null;
  return html`<${Section} title="Files that are not loaded" name="broken">
    ${files.map((each) => html`<details class="attempt" key=${each.file} open=${each.file === open || files.length === 1}>
      <summary><code>${each.file}</code> <${State} state="broken" /></summary>
      <${Text} text=${each.error} label=${`Why ${each.file} is not loaded`} />
    </details>`)}
  <//>`;
}
