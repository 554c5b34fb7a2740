import { query as withQuery, useQuery } from "../api.js";
import { html } from "../lib.js";
import { change } from "../router.js";
import { plain } from "../text.js";
import { Empty, Field, Loaded, Name, Page, Pages, Table, Time } from "../ui.js";

const FIELDS = { actor: ["Actor", "key:3"], action: ["Action", "key.*"], object: ["Object", ""] };

export function Audit({ query }) {
  const wanted = Object.fromEntries(Object.keys(FIELDS).map((name) => [name, query.get(name)]));
  const after = query.get("after");
  const entries = useQuery(withQuery("v1/audit", { ...wanted, limit: 50, after }), { every: after === null ? 5000 : 0 });
  const apply = (event) => {
    event.preventDefault();
    change({ ...Object.fromEntries([...new FormData(event.currentTarget)].map(([name, value]) => [name, value.trim()])), after: null });
  };
  return html`<${Page} title="Audit" about="Who changed what, and when.">
    <form class="filters" onSubmit=${apply}>
      ${Object.entries(FIELDS).map(([name, [label, hint]]) => html`<${Field} label=${label}><input type="search" name=${name} defaultValue=${wanted[name] ?? ""} placeholder=${hint} spellcheck="false" /><//>`)}
      <button>Search</button>
    </form>
    <${Loaded} of=${entries}>${({ items }) => html`
      <${Table} label="Audit log" rows=${items} id=${(one) => one.id} columns=${[
        { name: "When", cell: (one) => html`<${Time} at=${one.time} />` },
        { name: "Action", cell: (one) => html`<code>${plain(one.action)}</code>` },
        { name: "Object", cell: (one) => html`<${Name} text=${one.object ?? "several"} most=${60} />` },
        { name: "Actor", cell: (one) => html`<${Name} text=${one.actor} most=${40} /> ${one.name && html`<span class="dim"><${Name} text=${one.name} most=${40} /></span>`}` },
        { name: "From", kind: "extra", cell: (one) => one.address ?? "a command" },
        { name: "Node", kind: "extra", cell: (one) => plain(one.node ?? "–") },
        { name: "Details", kind: "grow", cell: (one) => Object.keys(one.details).length > 0 && html`<code class="line">${plain(JSON.stringify(one.details).slice(0, 400))}</code>` },
      ]} empty=${html`<${Empty} title="Nothing matches."><p>Changes of handlers, keys, schedules and runs are listed here with who made them.</p><//>`} />
    `}<//>
    <${Pages} after=${after} next=${entries.data?.next} />
  <//>`;
}
