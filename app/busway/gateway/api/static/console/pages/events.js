import { query as withQuery, useQuery } from "../api.js";
import { html } from "../lib.js";
import { change, link } from "../router.js";
import { number, preview } from "../text.js";
import { Empty, Field, Loaded, Name, Page, Pages, Table, Time } from "../ui.js";

const FIELDS = { type: "Type", source: "Source", subject: "Subject", id: "Id", correlationid: "Correlation" };
const HINTS = { type: "order.*", source: "/", subject: "", id: "", correlationid: "" };

export function Events({ query }) {
  const wanted = Object.fromEntries(Object.keys(FIELDS).map((name) => [name, query.get(name)]));
  const after = query.get("after");
  const events = useQuery(withQuery("v1/events", { ...wanted, limit: 50, after }), { every: after === null ? 3000 : 0 });
  const apply = (event) => {
    event.preventDefault();
    change({ ...Object.fromEntries([...new FormData(event.currentTarget)].map(([name, value]) => [name, value.trim()])), after: null });
  };
  return html`<${Page} title="Events" about="Stored events, the newest first.">
    <form class="filters" onSubmit=${apply}>
      ${Object.entries(FIELDS).map(([name, label]) => html`<${Field} label=${label}><input type="search" name=${name} defaultValue=${wanted[name] ?? ""} placeholder=${HINTS[name]} spellcheck="false" /><//>`)}
      <button>Search</button>
    </form>
    <${Loaded} of=${events}>${({ items }) => html`
      <${Table} label="Events" rows=${items} id=${(event) => event.seq} href=${(event) => link(`/events/${event.seq}`)}
        columns=${[
          { name: "Event", kind: "num", cell: (event) => number(event.seq) },
          { name: "Type", cell: (event) => html`<${Name} text=${event.type} most=${60} />` },
          { name: "Time", cell: (event) => html`<${Time} at=${event.time} />` },
          { name: "Subject", kind: "wide", cell: (event) => html`<${Name} text=${event.subject ?? ""} most=${40} />` },
          { name: "Source", kind: "extra", cell: (event) => html`<${Name} text=${event.source} most=${40} />` },
          { name: "Data", kind: "grow", cell: (event) => html`<code class="line">${preview(event.data ?? event.data_base64 ?? null)}</code>` },
        ]}
        empty=${html`<${Empty} title="No event matches."><p>Events older than the retention are deleted. <a href=${link("/publish")}>Publish one</a>.</p><//>`} />
    `}<//>
    <${Pages} after=${after} next=${events.data?.next} />
  <//>`;
}
