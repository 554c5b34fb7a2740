import { all, post, useQuery } from "../api.js";
import { html, useMemo, useState } from "../lib.js";
import { link } from "../router.js";
import { bytes, duration, number, plural, rate } from "../text.js";
import { Action, Empty, Figure, Loaded, Name, Page, Plot, Section, State, Table, Time } from "../ui.js";
import { First } from "./first.js";

const EVERY = 2000;
const BEHIND = 1000; // results, from which on a subscription is named
const WINDOW = 12; // samples, one minute: what the figures at the top are of

export function Overview() {
  const status = useQuery("v1/status", { every: EVERY });
  const rates = useQuery("v1/rates", { every: 5000 });
  const handlers = useQuery("v1/handlers", { every: EVERY, load: all });
  // Runs are of events: without them, which is rare, the gateway is asked whether there is any event.
  const idle = handlers.data?.items.every((one) => Object.keys(one.stats.runs).length === 0) ?? false;
  const any = useQuery(idle ? "v1/events?limit=1" : null, { every: 5000 });
  const [skipped, setSkipped] = useState(false);
  const first = !skipped && any.data !== null && any.data.items.length === 0;
  if (first) return html`<${First} handlers=${handlers.data?.items ?? null} onSkip=${() => setSkipped(true)} />`;
  return html`<${Page} title="Overview" actions=${html`<a class="button primary" href=${link("/publish")}>Publish an event</a>`}>
    <${Loaded} of=${status}>${(now) => html`
      <${Attention} status=${now} handlers=${handlers} />
      <${Figures} status=${now} rates=${rates.data} />
    `}<//>
    <${Rates} rates=${rates.data} nodes=${status.data?.nodes.length ?? 1} />
    <${Loaded} of=${handlers}>${({ items }) => html`<${Handlers} items=${items} status=${status.data} reload=${handlers.reload} />`}<//>
    <${Loaded} of=${status}>${(now) => html`<${Pools} status=${now} /><${Nodes} nodes=${now.nodes} />`}<//>
  <//>`;
}

// -- what needs attention

function Attention({ status, handlers }) {
  const items = handlers.data?.items ?? [];
  const behind = status.subscribers.furthest_behind >= BEHIND;
  const slowest = useQuery(behind ? "v1/subscribers?limit=1" : null, { every: 5000 }).data?.items[0];
  const found = [...troubles(status), ...dead(items), ...paused(items, handlers.reload), ...(behind ? lagging(status, slowest) : [])];
  if (!found.length) return html`<p class="fine"><${State} state="healthy" /> Nothing needs attention.</p>`;
  return html`<${Section} title="Needs attention" name="attention">
    <ul class="attention">
      ${found.map((each) => html`<li key=${each.key}><${State} state=${each.state} tone=${each.tone} /><div class="what">${each.text}</div><div class="buttons">${each.action}</div></li>`)}
    </ul>
  <//>`;
}

function troubles(status) {
  const found = [];
  if (status.state !== "ready") found.push({ key: "state", state: "not ready", tone: "bad", text: status.state });
  for (const file of status.files_that_do_not_import) {
    const last = file.error.trim().split("\n").at(-1);
    found.push({
      key: `file ${file.file}`,
      state: "broken",
      text: html`<code>${file.file}</code> does not import: <${Name} text=${last} most=${300} />`,
      action: html`<a class="button" href=${link("/handlers", { broken: file.file })}>Show the traceback</a>`,
    });
  }
  if (status.workers.zygote.error) found.push({ key: "zygote", state: "broken", text: `Workers cannot be started: ${status.workers.zygote.error.split("\n")[0]}` });
  for (const [name, pool] of Object.entries(status.workers.pools)) {
    if (pool.error) found.push({ key: `pool ${name}`, state: "broken", text: `The pool ${name} cannot start workers: ${pool.error}` });
    else if (pool.crash_loop) found.push({ key: `pool ${name}`, state: "broken", text: `Workers of the pool ${name} die before they run an attempt: ${pool.crash_loop.last ?? ""}` });
  }
  if (status.committer.log_blocked) found.push({ key: "log", state: "warning", tone: "warn", text: `Another program keeps a transaction of the database open: its write-ahead log grows (${bytes(status.committer.log_bytes)}).` });
  if (status.broker && !status.broker.connected) found.push({ key: "broker", state: "offline", text: `The broker is not connected: ${status.broker.problem ?? ""}` });
  return found;
}

const dead = (handlers) =>
  handlers
    .filter((each) => each.stats.runs.dead)
    .map((each) => ({
      key: `dead ${each.name}`,
      state: "dead",
      text: html`${plural(each.stats.runs.dead, "dead run")} of <a href=${link(`/handlers/${each.name}`)}>${each.name}</a>${
        each.stats.last_error && html`: <${Name} text=${`${each.stats.last_error.type}: ${each.stats.last_error.message}`} />`
      }`,
      action: html`<a class="button" href=${link("/dead", { handler: each.name })}>Look at them</a>`,
    }));

const paused = (handlers, reload) =>
  handlers
    .filter((each) => each.paused || each.missing)
    .map((each) => ({
      key: `paused ${each.name}`,
      state: each.missing ? "missing" : "paused",
      text: html`<a href=${link(`/handlers/${each.name}`)}>${each.name}</a> ${each.missing ? "is no longer in the code." : html`is paused${each.paused_reason ? `: ${each.paused_reason}` : ""}, ${plural(waiting(each), "run")} wait.`}`,
      action: each.missing ? null : html`<${Action} run=${() => post(`v1/handlers/${each.name}/resume`).then(reload)} done=${`${each.name} is resumed`} label=${`Resume ${each.name}`}>Resume<//>`,
    }));

function lagging({ subscribers }, slowest) {
  const name = slowest && html`, <${Name} text=${[slowest.durable ?? slowest.id, slowest.name].filter(Boolean).join(" of ")} most=${80} />,`;
  return [{
    key: "lagging",
    state: "lagging",
    text: html`${plural(subscribers.lagging, "subscription")} behind, the slowest${name ?? ""} by ${plural(subscribers.furthest_behind, "result")}.`,
    action: html`<a class="button" href=${link("/subscribers")}>All subscribers</a>`,
  }]; // prettier-ignore
}

const waiting = ({ stats: { runs } }) => (runs.available ?? 0) + (runs.retryable ?? 0);

// -- figures

function perSecond(rates, name) {
  const samples = rates?.samples.slice(-WINDOW) ?? [];
  const seconds = samples.reduce((sum, each) => sum + each.seconds, 0);
  return seconds ? samples.reduce((sum, each) => sum + each[name], 0) / seconds : null;
}

function Figures({ status, rates }) {
  const queued = status.queues.handlers.reduce((sum, { runs }) => sum + (runs.available ?? 0) + (runs.retryable ?? 0), 0);
  const oldest = Math.max(0, ...status.queues.handlers.map((each) => each.oldest ?? 0));
  const running = status.nodes.reduce((sum, node) => sum + Object.values(node.running).reduce((a, b) => a + b, 0), 0);
  const capacity = status.nodes.reduce((sum, node) => sum + Object.values(node.capacity).reduce((a, b) => a + b, 0), 0);
  return html`<dl class="figures">
    <${Figure} name="Events/s">${rate(perSecond(rates, "events"))}<//>
    <${Figure} name="Results/s">${rate(perSecond(rates, "results"))}<//>
    <${Figure} name="Failures/s" tone=${perSecond(rates, "failures") > 0 ? "warn" : ""}>${rate(perSecond(rates, "failures"))}<//>
    <${Figure} name="Waiting runs" note=${oldest ? `oldest ${duration(oldest)}` : "none is due"}>${number(queued)}<//>
    <${Figure} name="Running" note=${`of ${number(capacity)}`}>${number(running)}<//>
    <${Figure} name="Subscribers" note=${plural(status.subscribers.subscriptions, "subscription")}>${number(status.subscribers.connections)}<//>
    <${Figure} name="Database" note=${status.disk.free === null ? "" : `${bytes(status.disk.free)} free`}>${bytes(status.disk.bytes)}<//>
  </dl>`;
}

function Rates({ rates, nodes }) {
  const data = useMemo(() => {
    const samples = rates?.samples ?? [];
    const line = (name) => samples.map((each) => each[name] / each.seconds);
    return [samples.map((each) => Date.parse(each.time) / 1000), line("events"), line("results"), line("failures")];
  }, [rates]);
  if (data[0].length < 2) return html`<${Section} title="The last ten minutes"><p class="dim">The plot begins some seconds after the start of the gateway.</p><//>`;
  const [, events, results, failures] = data;
  const top = (line) => rate(Math.max(...line));
  return html`<${Section} title="The last ten minutes">
    <${Plot} label=${`Events, results and failures per second over ten minutes. At most ${top(events)} events, ${top(results)} results, ${top(failures)} failures per second.`}
      series=${["events/s", "results/s", nodes > 1 ? "failures/s of this node" : "failures/s"]} data=${data} />
  <//>`;
}

// -- tables

function Handlers({ items, status, reload }) {
  const oldest = new Map((status?.queues.handlers ?? []).map((each) => [each.handler, each.oldest]));
  const columns = [
    { name: "Handler", kind: "grow", cell: (one) => html`<${Name} text=${one.name} />` },
    { name: "State", cell: (one) => html`<${State} state=${condition(one)} />` },
    { name: "Waiting", kind: "num", cell: (one) => number(waiting(one)) },
    { name: "Oldest", kind: "num", cell: (one) => duration(oldest.get(one.name)) },
    { name: "Running", kind: "num", cell: (one) => number(one.stats.runs.running ?? 0) },
    { name: "Succeeded", kind: "num wide", cell: (one) => number(one.stats.runs.succeeded ?? 0) },
    { name: "Dead", kind: "num", cell: (one) => one.stats.runs.dead ? html`<a class="bad" href=${link("/dead", { handler: one.name })}>${number(one.stats.runs.dead)}</a>` : "0" },
    { name: "p50", kind: "num wide", cell: (one) => duration(one.stats.latency.p50) },
    { name: "p95", kind: "num wide", cell: (one) => duration(one.stats.latency.p95) },
    { name: "Pool", kind: "extra", cell: (one) => html`<span title=${one.placed_in.reason}>${one.placed_in.pool}</span>` },
    { name: "", cell: (one) => html`<${Toggle} one=${one} reload=${reload} />` },
  ];
  return html`<${Section} title="Handlers"><${Table} label="Handlers" columns=${columns} rows=${items} id=${(one) => one.name}
    href=${(one) => link(`/handlers/${one.name}`)}
    empty=${html`<${Empty} title="No handlers yet."><p>Put a Python file with a function under <code>@handler("order.*")</code> into the handlers folder, or start with <code>busway init</code>.</p><//>`} /><//>`;
}

/** A handler's state in one word. */
export const condition = (one) => (one.missing ? "missing" : one.paused ? "paused" : one.waits_because ? "waiting" : "active");

/** The button that pauses or resumes a handler. */
export function Toggle({ one, reload }) {
  const run = () => post(one.paused ? `v1/handlers/${one.name}/resume` : `v1/handlers/${one.name}/pause`).then(reload);
  const word = one.paused ? "Resume" : "Pause";
  return html`<${Action} kind="small" label=${`${word} ${one.name}`} run=${run} done=${`${one.name} is ${word.toLowerCase()}d`}>${word}<//>`;
}

function Pools({ status }) {
  const rows = Object.entries(status.workers.pools).flatMap(([name, pool]) => (pool.workers.length ? pool.workers.map((worker) => ({ name, pool, worker })) : [{ name, pool, worker: null }]));
  const columns = [
    { name: "Pool", kind: "grow", cell: ({ name }) => name },
    { name: "Worker", kind: "num", cell: ({ worker }) => worker?.pid ?? "–" },
    { name: "State", cell: ({ worker, pool }) => html`<${State} state=${worker ? worker.state : pool.limit ? "ready" : "idle"} />` },
    { name: "Running", kind: "num", cell: ({ worker, pool }) => number(worker ? worker.running : pool.running) },
    { name: "Served", kind: "num", cell: ({ worker }) => (worker ? number(worker.served) : "–") },
    { name: "Memory", kind: "num wide", cell: ({ worker }) => bytes(worker?.memory) },
    { name: "Age", kind: "num wide", cell: ({ worker }) => duration(worker?.age) },
  ];
  return html`<${Section} title="Pools and workers"><${Table} label="Workers" columns=${columns} rows=${rows} id=${({ name, worker }) => `${name} ${worker?.pid ?? ""}`} empty="This node has no workers." /><//>`;
}

const sum = (counts) => Object.values(counts).reduce((a, b) => a + b, 0);

function Nodes({ nodes }) {
  const columns = [
    { name: "Node", kind: "grow", cell: (node) => html`${node.name}${node.this && html` <span class="dim">(answers)</span>`}` },
    { name: "Role", cell: (node) => html`${node.role}${node.leader && html` <${State} state="leader" tone="good" />`}` },
    { name: "Running", kind: "num", cell: (node) => `${number(sum(node.running))} of ${number(sum(node.capacity))}` },
    { name: "Behind", kind: "num wide", cell: (node) => number(node.lag) },
    { name: "Version", kind: "wide", cell: (node) => node.version },
    { name: "Started", cell: (node) => html`<${Time} at=${node.started_at} />` },
  ];
  return html`<${Section} title="Nodes"><${Table} label="Nodes" columns=${columns} rows=${nodes} id=${(node) => node.id} /><//>`;
}
