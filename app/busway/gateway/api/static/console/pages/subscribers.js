import { all, remove, useQuery } from "../api.js";
import { html } from "../lib.js";
import { number, plain, plural } from "../text.js";
import { Action, Empty, Loaded, Name, Page, Section, State, Table, Time } from "../ui.js";

export function Subscribers() {
  const subscribers = useQuery("v1/subscribers?limit=200", { every: 2000 });
  const durables = useQuery("v1/subscriptions", { every: 3000, load: all });
  return html`<${Page} title="Subscribers" about="Who follows the results, to what, and how far behind.">
    <${Section} title="Connected to this node" name="connected">
      <${Loaded} of=${subscribers}>${({ items }) => html`<${Table} label="Connected subscriptions" rows=${items} id=${(one) => `${one.connection} ${one.id}`}
        columns=${[
          { name: "Subscription", cell: (one) => html`<${Name} text=${one.durable ?? one.id} most=${50} />` },
          { name: "State", cell: (one) => html`<${State} state=${one.live ? "live" : "lagging"} tone=${one.live ? "good" : undefined} />` },
          { name: "Behind", kind: "num", cell: (one) => number(one.behind) },
          { name: "Who", cell: (one) => (one.name ? html`<${Name} text=${one.name} most=${40} />` : html`<span class="dim">anybody</span>`) },
          { name: "Connection", kind: "num wide", cell: (one) => one.connection },
          { name: "What it selects", kind: "grow", cell: (one) => html`<code>${selection(one)}</code>` },
        ]}
        empty=${html`<${Empty} title="Nobody is connected to this node."><p>Follow results from a terminal: <code>busway tail</code>, from Python: <code>client.subscribe("order.*")</code>, or on the page <a href="#/live">Live</a>.</p><//>`} />`}<//>
    <//>
    <${Section} title="Durable names" name="durables">
      <${Loaded} of=${durables}>${({ items }) => html`<${Table} label="Durable subscriptions" rows=${items} id=${(one) => one.name}
        columns=${[
          { name: "Name", kind: "grow", cell: (one) => html`<${Name} text=${one.name} />` },
          { name: "State", cell: (one) => html`<${State} state=${one.connected ? "connected" : "away"} />` },
          { name: "Behind", kind: "num", cell: (one) => number(one.behind) },
          { name: "Acknowledged", cell: (one) => html`<${Time} at=${one.acknowledged_at} none="never" />` },
          { name: "Created", kind: "wide", cell: (one) => html`<${Time} at=${one.created_at} />` },
          { name: "", cell: (one) => html`<${Action} kind="small danger" label=${`Delete ${plain(one.name)}`} disabled=${one.connected} run=${() => remove(`v1/subscriptions/${encodeURIComponent(one.name)}`).then(durables.reload)} done="The durable name is deleted"
            confirm=${{ title: `Delete ${plain(one.name)}?`, text: `Its place in the log is lost: ${plural(one.behind, "result")} that it has not acknowledged.`, yes: "Delete the name" }}>Delete<//>` },
        ]}
        empty="No subscription has a durable name." />`}<//>
    <//>
  <//>`;
}

function selection(one) {
  const parts = [];
  if (one.types.length) parts.push(one.types.join(", "));
  if (one.handlers.length) parts.push(`handlers ${one.handlers.join(", ")}`);
  if (one.kinds.length) parts.push(`kinds ${one.kinds.join(", ")}`);
  if (one.correlationid) parts.push(`correlation ${one.correlationid}`);
  if (one.filter) parts.push(JSON.stringify(one.filter));
  if (one.shadow) parts.push("shadow");
  return plain(parts.join(" · ").slice(0, 500) || "all results");
}
