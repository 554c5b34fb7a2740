import { get, post, query as withQuery, useQuery } from "../api.js";
import { html, useMemo } from "../lib.js";
import { link } from "../router.js";
import { bytes, duration, number, plain, plural } from "../text.js";
import { Action, Clock, exact, Json, Loaded, Name, Page, Section, State, Table, Text, Time } from "../ui.js";

const UNFINISHED = ["available", "running", "retryable"];
const DETAILED = 60; // runs whose attempts are drawn
const PARALLEL = 4;
const KNOWN = ["seq", "specversion", "id", "source", "type", "subject", "time", "datacontenttype", "correlationid", "causationid", "data", "data_base64"];

export function Event({ seq, query }) {
  const tree = useQuery(`v1/events/${seq}/tree`, { every: 1000, load: loadTree });
  const title = tree.data ? tree.data.event.type : `Event ${seq}`;
  const unfinished = tree.data ? flat(tree.data).some(({ run }) => run && UNFINISHED.includes(run.state)) : false;
  const actions = tree.data && html`
    <a class="button" href=${link("/publish", { like: seq })}>Publish one like this</a>
    ${unfinished && html`<${Action} kind="danger" name="cancel" run=${() => post(`v1/events/${seq}/cancel`).then(tree.reload)} done="Unfinished runs are cancelled"
      confirm=${{ title: "Cancel this event?", text: "Its unfinished runs, and those of the events that it caused, end.", yes: "Cancel them" }}>Cancel unfinished runs<//>`}
  `;
  return html`<${Page} title=${html`<${Name} text=${title} />`} tab=${title.slice(0, 100)} about=${`Event ${number(Number(seq))}`} actions=${actions}>
    <${Loaded} of=${tree}>${(root) => html`
      <${Attributes} event=${root.event} />
      <${Waterfall} root=${root} chosen=${Number(query.get("run"))} />
      <${Run} root=${root} id=${Number(query.get("run")) || firstRun(root)} reload=${tree.reload} />
      <${Results} event=${root.event} unfinished=${unfinished} />
      <${Recipients} seq=${root.event.seq} unfinished=${unfinished} />
    `}<//>
  <//>`;
}

const firstRun = (root) => (root.runs.find((run) => run.state === "dead") ?? root.runs[0])?.id ?? null;

const finished = new Map(); // by run: attempts of runs that ended are read once

/** The tree with the attempts of its first runs. */
async function loadTree(path, options) {
  const root = await get(path, options);
  const wanted = flat(root).map(({ run }) => run).filter((run) => run && run.attempt > 0).slice(0, DETAILED);
  const load = async () => {
    for (let run = wanted.shift(); run; run = wanted.shift()) {
      const key = `${run.id} ${run.state} ${run.attempt}`;
      if (!finished.has(key)) {
        const { attempts } = await get(`v1/runs/${run.id}`, options);
        run.attempts = attempts;
        if (UNFINISHED.includes(run.state)) continue;
        if (finished.size > 500) finished.clear();
        finished.set(key, attempts);
      }
      run.attempts = finished.get(key);
    }
  };
  await Promise.all(Array.from({ length: PARALLEL }, load));
  return root;
}

/** The tree as rows: each event, its runs, and the events that they published. */
function flat(node, depth = 0, rows = []) {
  rows.push({ depth, event: node.event });
  for (const run of node.runs) rows.push({ depth, event: node.event, run });
  for (const each of node.events) flat(each, depth + 1, rows);
  return rows;
}

// -- attributes and data

function Attributes({ event }) {
  const others = Object.entries(event).filter(([name]) => !KNOWN.includes(name));
  const pair = (name, value) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`;
  return html`<${Section} title="Attributes and data" name="attributes">
    <dl class="pairs">
      ${pair("id", html`<${Name} text=${event.id} />`)}
      ${pair("source", html`<${Name} text=${event.source} />`)}
      ${event.subject && pair("subject", html`<${Name} text=${event.subject} />`)}
      ${pair("time", html`<${Time} at=${event.time} />`)}
      ${event.datacontenttype && pair("content type", html`<${Name} text=${event.datacontenttype} />`)}
      ${event.correlationid !== event.id && pair("correlation", html`<a href=${link("/events", { correlationid: event.correlationid })}><${Name} text=${event.correlationid} /></a>`)}
      ${event.causationid && pair("caused by", html`<${Cause} id=${event.causationid} />`)}
      ${others.map(([name, value]) => pair(plain(name), html`<${Name} text=${value} />`))}
    </dl>
    <${Json} value=${event.data} binary=${event.data_base64} label="Data of the event" />
  <//>`;
}

function Cause({ id }) {
  const found = useQuery(withQuery("v1/events", { id, limit: 1 }));
  const cause = found.data?.items[0];
  return cause ? html`<a href=${link(`/events/${cause.seq}`)}><${Name} text=${cause.type} /> ${number(cause.seq)}</a>` : html`<${Name} text=${id} />`;
}

// -- the waterfall

const LEGEND = [["wait", "waits"], ["good", "succeeded"], ["warn", "failed or lost"], ["bad", "dead or cancelled"], ["busy", "runs"]];
const ms = (time) => Date.parse(time);

function span(rows) {
  const now = Date.now();
  const starts = [];
  const ends = [];
  for (const { event, run } of rows) {
    if (!run) {
      if (rows.length === 1) starts.push(ms(event.time));
      continue;
    }
    starts.push(ms(run.created_at));
    const attempts = run.attempts ?? [];
    for (const attempt of attempts) ends.push(attempt.finished_at ? ms(attempt.finished_at) : now);
    if (run.finished_at) ends.push(ms(run.finished_at));
    else if (run.state === "running") ends.push(now);
  }
  const from = starts.length ? Math.min(...starts) : now;
  const to = Math.max(from + 1, ...ends.map((end) => end));
  return { from, length: to - from };
}

function Waterfall({ root, chosen }) {
  const rows = flat(root);
  const { from, length } = span(rows);
  const at = (time) => `${Math.max(0, Math.min(100, ((time - from) / length) * 100))}%`;
  const runs = rows.filter(({ run }) => run).length;
  const title = `What it caused`;
  if (!runs && rows.length === 1) return html`<${Section} title=${title}><p class="dim nothing">No handler took this event. <a href=${link("/handlers")}>Handlers</a> says what each of them waits for.</p><//>`;
  return html`<${Section} title=${title} name="waterfall">
    <p class="dim">${plural(rows.length - runs, "event")}, ${plural(runs, "run")} in ${duration(length / 1000)}.${root.truncated ? " The tree is larger than what is shown." : ""}</p>
    <div class="table" role="group" aria-label="Waterfall" tabindex="0"><table class="waterfall">
      <thead><tr><th scope="col">Event and runs</th><th scope="col">State</th><th scope="col" class="chart"><span>0</span><span>${duration(length / 2000)}</span><span>${duration(length / 1000)}</span></th><th scope="col" class="num">Took</th></tr></thead>
      <tbody>${rows.map((row) => (row.run ? html`<${RunRow} key=${`r${row.run.id}`} row=${row} at=${at} chosen=${row.run.id === chosen} root=${root.event.seq} />` : html`<${EventRow} key=${`e${row.event.seq}`} row=${row} at=${at} root=${root.event.seq} />`))}</tbody>
    </table></div>
    <p class="legend dim">${LEGEND.map(([tone, word]) => html`<span><i class=${`swatch ${tone}`}></i> ${word}</span>`)}</p>
  <//>`;
}

const indent = (depth) => ({ paddingInlineStart: `${Math.min(depth, 12) * 16}px` });

function EventRow({ row: { event, depth }, at, root }) {
  const name = html`<${Name} text=${event.type} most=${48} />`;
  return html`<tr class="event">
    <td><div style=${indent(depth)}><span class="mark" aria-hidden="true">◆</span> ${event.seq === root ? name : html`<a data-row href=${link(`/events/${event.seq}`)}>${name}</a>`} <span class="dim">${number(event.seq)}</span></div></td>
    <td class="dim">event</td>
    <td class="chart"><div class="track"><i class="point" style=${{ left: at(ms(event.time)) }} title=${exact(event.time)}></i></div></td>
    <td></td>
  </tr>`;
}

const TONES = { succeeded: "good", failed: "warn", lost: "warn", cancelled: "bad" };

function RunRow({ row: { run, depth }, at, chosen, root }) {
  const attempts = run.attempts ?? [];
  const now = Date.now();
  const bars = [];
  let waits = Math.max(ms(run.created_at), 0);
  for (const each of attempts) {
    const start = ms(each.started_at);
    const end = each.finished_at ? ms(each.finished_at) : now;
    bars.push({ from: waits, to: start, tone: "wait", title: `waited ${duration((start - waits) / 1000)}` });
    const last = each === attempts.at(-1);
    const tone = each.outcome === null ? "busy" : last && run.state === "dead" ? "bad" : TONES[each.outcome];
    bars.push({ from: start, to: end, tone, title: `attempt ${each.attempt}: ${each.outcome ?? "runs"}, ${duration((end - start) / 1000)}` });
    waits = end;
  }
  if (!attempts.length) bars.push({ from: waits, to: run.finished_at ? ms(run.finished_at) : now, tone: "wait", title: run.state });
  const took = attempts.length ? attempts.reduce((sum, each) => sum + (each.wall_time ?? ((each.finished_at ? ms(each.finished_at) : now) - ms(each.started_at)) / 1000), 0) : null;
  return html`<tr class=${chosen ? "chosen" : ""}>
    <td><div style=${indent(depth + 1)}><a data-row href=${link(`/events/${root}`, { run: run.id })} aria-current=${chosen ? "true" : undefined}><${Name} text=${run.handler} /></a> <span class="dim">run ${number(run.id)}${run.attempt > 1 ? `, ${plural(run.attempt, "attempt")}` : ""}</span></div></td>
    <td><${State} state=${run.state} /></td>
    <td class="chart"><div class="track">${bars.filter((bar) => bar.to > bar.from || bar.tone !== "wait").map((bar) => html`<i class=${bar.tone} title=${bar.title} style=${{ left: at(bar.from), right: `calc(100% - ${at(bar.to)})` }}></i>`)}</div></td>
    <td class="num">${duration(took)}</td>
  </tr>`;
}

// -- one run

function Run({ root, id, reload }) {
  const found = flat(root).find(({ run }) => run?.id === id)?.run;
  const state = `${found?.state} ${found?.attempt}`;
  const detail = useQuery(id ? `v1/runs/${id}` : null, { every: found && UNFINISHED.includes(found.state) ? 1000 : 0 });
  useMemo(() => detail.reload(), [state]);
  if (!id) return null;
  const again = () => {
    reload();
    detail.reload();
  };
  return html`<${Loaded} of=${detail}>${(run) => html`
    <${Section} title=${`Run ${number(run.id)}: ${run.handler}`} name="run" actions=${html`<${RunActions} run=${run} reload=${again} />`}>
      <dl class="pairs">
        <div><dt>state</dt><dd><${State} state=${run.state} />${run.state === "retryable" && html` next attempt <${Time} at=${run.available_at} />`}</dd></div>
        <div><dt>handler</dt><dd><a href=${link(`/handlers/${run.handler}`)}>${run.handler}</a>${run.revision && ` revision ${run.revision}`}</dd></div>
        <div><dt>attempts</dt><dd>${run.attempt} of ${run.max_attempts}</dd></div>
        <div><dt>created</dt><dd><${Time} at=${run.created_at} /></dd></div>
        <div><dt>finished</dt><dd><${Time} at=${run.finished_at} none="not yet" /></dd></div>
        ${run.replay && html`<div><dt>replay</dt><dd>${number(run.replay)}</dd></div>`}
      </dl>
      ${run.attempts.length === 0 && html`<p class="dim nothing">No attempt has started yet.</p>`}
      ${[...run.attempts].reverse().map((each, at) => html`<${Attempt} key=${each.attempt} attempt=${each} open=${at === 0} />`)}
    <//>`}
  <//>`;
}

/** The buttons that retry or cancel a run. */
export function RunActions({ run, reload }) {
  const ended = ["dead", "cancelled", "retryable"].includes(run.state);
  return html`
    ${ended && html`<${Action} name="retry" run=${() => post(`v1/runs/${run.id}/retry`).then(reload)} done=${`Run ${run.id} is available again`}>${run.state === "retryable" ? "Retry now" : "Retry"}<//>`}
    ${UNFINISHED.includes(run.state) && html`<${Action} kind="danger" name="cancel-run" run=${() => post(`v1/runs/${run.id}/cancel`).then(reload)} done=${`Run ${run.id} is cancelled`}
      confirm=${{ title: `Cancel run ${run.id}?`, text: "A waiting run never starts. A running attempt is stopped.", yes: "Cancel the run" }}>Cancel<//>`}
  `;
}

function Attempt({ attempt, open }) {
  const where = [attempt.pool, attempt.worker && `worker ${attempt.worker}`, attempt.node && `on ${attempt.node}`].filter(Boolean).join(", ");
  return html`<details class="attempt" open=${open}>
    <summary>Attempt ${attempt.attempt} <${State} state=${attempt.outcome ?? "running"} /> <span class="dim"><${Clock} at=${attempt.started_at} /> · ${duration(attempt.wall_time)} · ${plain(where)}</span></summary>
    <dl class="pairs">
      <div><dt>wall time</dt><dd>${duration(attempt.wall_time)}</dd></div>
      <div><dt>CPU time</dt><dd>${duration(attempt.cpu_time)}</dd></div>
      <div><dt>peak memory</dt><dd>${bytes(attempt.peak_memory)}</dd></div>
      <div><dt>revision</dt><dd>${attempt.revision}</dd></div>
    </dl>
    ${attempt.error && html`<p class="error"><strong><${Name} text=${attempt.error.type} /></strong>: <${Name} text=${attempt.error.message} most=${500} /></p>`}
    ${attempt.error?.traceback && html`<h3>Stack</h3><${Text} text=${attempt.error.traceback} label="Stack" />`}
    ${attempt.log ? html`<h3>Log</h3><${Text} text=${attempt.log} label="Log" />` : html`<p class="dim">It logged nothing.</p>`}
    ${attempt.published && html`<h3>Would have published</h3><${Json} value=${attempt.published} label="Published" />`}
  </details>`;
}

// -- its results

function Results({ event, unfinished }) {
  const path = withQuery("v1/results", { correlationid: event.correlationid, last: 100 });
  const results = useQuery(path, { every: unfinished ? 1000 : 0 });
  useMemo(() => results.reload(), [unfinished]);
  return html`<${Section} title="Results" name="results">
    <${Loaded} of=${results}>${({ items }) => html`<${ResultTable} items=${items} label="Results of the event and all that it caused" />`}<//>
  <//>`;
}

/** Results with their values. */
export function ResultTable({ items, label }) {
  const columns = [
    { name: "Time", cell: (item) => html`<${Clock} at=${item.time} />` },
    { name: "Kind", cell: (item) => html`<${State} state=${item.kind} />` },
    { name: "Handler", cell: (item) => html`<${Name} text=${item.handler} />` },
    { name: "Type", kind: "wide", cell: (item) => html`<${Name} text=${item.event.type} most=${40} />` },
    { name: "Value", kind: "grow", cell: (item) => (item.error ? html`<${Name} text=${`${item.error.type}: ${item.error.message}`} most=${300} />` : html`<${Json} value=${item.data} binary=${item.data_base64} label=${`Result of ${item.handler}`} short />`) },
  ];
  return html`<${Table} label=${label} columns=${columns} rows=${items} id=${(item) => item.cursor} empty="No result yet, or they were deleted after the retention." />`;
}

// -- who has them

function Recipients({ seq, unfinished }) {
  const found = useQuery(`v1/events/${seq}/subscribers`, { every: unfinished ? 1000 : 5000 });
  if (found.error?.status === 403) return null; // this key sees some types only, or may not read who subscribes
  return html`<${Section} title="Who has its results" name="recipients">
    <p class="dim">Of this event, without those that it caused: the last result of each run. Open subscriptions are those of the node that answers.</p>
    <${Loaded} of=${found}>${({ results, items, truncated }) => html`
      ${truncated && html`<p class="dim">There are more than are listed.</p>`}
      <${Table} label="Who has its results" rows=${items} id=${(one) => `${one.connection} ${one.id} ${one.durable}`}
        columns=${[
          { name: "Subscription", kind: "grow", cell: (one) => html`<${Name} text=${one.durable ?? one.id} most=${50} />${one.name && html` <span class="dim"><${Name} text=${one.name} most=${40} /></span>`}` },
          { name: "State", cell: (one) => html`<${State} ...${received(one)} />` },
          { name: "Results", kind: "num", cell: (one) => (one.selected === null ? html`<span class="dim">not known</span>` : `${number(one.received)} of ${number(one.selected)}`) },
          { name: "Sent", cell: (one) => (one.pushed_at ? html`<${Time} at=${one.pushed_at} />` : html`<span class="dim">${one.received ? "from the log, later" : "–"}</span>`) },
          { name: "Subscribed", kind: "wide", cell: (one) => html`<${Time} at=${one.since} none="away" />` },
          { name: "Acknowledged", cell: (one) => (one.acknowledged === null ? html`<span class="dim">no durable name</span>` : html`${number(one.acknowledged)} of ${number(results)}${one.acknowledged > 0 && html`, by <${Time} at=${one.acknowledged_at} />`}`) },
        ]}
        empty=${unfinished ? "Its runs have not ended." : results ? "No subscription of this node selects them, and there is no durable name." : "It has no result, or they were deleted after the retention."} />`}
    <//>
  <//>`;
}

/** Whether a subscription has all results, as a word. */
function received(one) {
  if (one.connection === null) return { state: one.acknowledged ? "acknowledged" : "away", tone: one.acknowledged ? "good" : "calm" };
  if (one.received === one.selected) return { state: "received", tone: "good" };
  if (one.pushed_at === null && one.received === 0) return { state: "not sent", tone: "calm" };
  return { state: "behind", tone: "warn" };
}
