import { useQuery } from "../api.js";
import { html } from "../lib.js";
import { bytes, number, plain } from "../text.js";
import { Loaded, Page, Section, State, Table, Time } from "../ui.js";

const use = (running, capacity) => Object.keys({ ...capacity, ...running }).map((pool) => `${pool} ${number(running[pool] ?? 0)} of ${number(capacity[pool] ?? 0)}`).join(", ") || "none";

export function Nodes() {
  const status = useQuery("v1/status", { every: 2000 });
  return html`<${Page} title="Nodes" about="The gateways that use this database.">
    <${Loaded} of=${status}>${(now) => html`
      <${Table} label="Nodes" rows=${now.nodes} id=${(node) => node.id} columns=${[
        { name: "Node", cell: (node) => html`${plain(node.name)}${node.this && html` <span class="dim">(answers)</span>`}` },
        { name: "Role", cell: (node) => html`${node.role} ${node.leader && html`<${State} state="leader" tone="good" />`}` },
        { name: "Attempts", kind: "grow", cell: (node) => use(node.running, node.capacity) },
        { name: "Commits behind", kind: "num wide", cell: (node) => number(node.lag) },
        { name: "Version", kind: "wide", cell: (node) => node.version },
        { name: "Code", kind: "wide", cell: (node) => html`<code>${(node.code ?? "none").slice(0, 12)}</code>` },
        { name: "Started", cell: (node) => html`<${Time} at=${node.started_at} />` },
      ]} />
      <${Section} title="This node">
        <dl class="pairs">
          <div><dt>state</dt><dd><${State} state=${now.state} tone=${now.state === "ready" ? "good" : "bad"} /></dd></div>
          <div><dt>version</dt><dd>${now.version}</dd></div>
          <div><dt>started</dt><dd><${Time} at=${now.started_at} /></dd></div>
          <div><dt>access</dt><dd>${plain(now.access)}</dd></div>
          <div><dt>database</dt><dd><code>${plain(now.disk.database)}</code></dd></div>
          <div><dt>size</dt><dd>${bytes(now.disk.bytes)}, ${bytes(now.disk.free)} free</dd></div>
          <div><dt>write log</dt><dd>${bytes(now.committer.log_bytes)}${now.committer.log_blocked ? ", blocked by a reader" : ""}</dd></div>
          <div><dt>committer</dt><dd><${State} state=${now.committer.healthy ? "healthy" : "failing"} tone=${now.committer.healthy ? "good" : "bad"} /> pid ${now.committer.pid ?? "–"}</dd></div>
          <div><dt>broker</dt><dd>${now.broker ? html`<${State} state=${now.broker.connected ? "connected" : "offline"} /> ${plain(now.broker.url)}` : "none"}</dd></div>
          <div><dt>worker deaths</dt><dd>${Object.entries(now.workers.deaths).flatMap(([pool, causes]) => Object.entries(causes).map(([cause, count]) => `${pool}: ${number(count)} ${cause}`)).join(", ") || "none"}</dd></div>
        </dl>
      <//>
    `}<//>
  <//>`;
}
