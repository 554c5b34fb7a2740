import { get, patch, post, query as withQuery, remove, useQuery } from "../api.js";
import { html, useState } from "../lib.js";
import { observed, ratesOf } from "../rates.js";
import { go, link } from "../router.js";
import { bytes, duration, number, parse, plain, plural, rate } from "../text.js";
import { Action, Field, Json, Loaded, Name, notify, Page, Section, State, Table, Text, Time, Trouble } from "../ui.js";
import { Edit } from "./edit.js";
import { condition, Toggle } from "./overview.js";
import { Revisions } from "./revisions.js";

const load = observed(get, (one) => [one]);
const SHOWN = ["target", "events", "filter", "pool", "timeout", "max_attempts", "backoff", "concurrency", "rate", "ordered", "memory", "breaker", "description"];

export function Handler({ name, query }) {
  const handler = useQuery(`v1/handlers/${name}`, { every: 2000, load });
  const [editing, setEditing] = useState(false);
  const actions = handler.data && html`
    <${Toggle} one=${handler.data} reload=${handler.reload} />
    <button type="button" onClick=${() => setEditing(true)} data-action="edit">Edit</button>
    ${handler.data.source === "api" && html`<${Action} kind="danger" name="delete" run=${() => remove(`v1/handlers/${name}`).then(() => go("/handlers"))} done=${`${name} is deleted`}
      confirm=${{ title: `Delete ${name}?`, text: "Its waiting runs are cancelled; running ones finish.", yes: "Delete the handler" }}>Delete<//>`}
  `;
  return html`<${Page} title=${name} about="Handler" actions=${actions}>
    <${Loaded} of=${handler}>${(one) => html`
      <${Now} one=${one} />
      <${Fields} one=${one} reload=${handler.reload} />
      <${Test} one=${one} like=${query.get("event")} />
      <${Replays} one=${one} />
      <${Revisions} key=${one.revision} name=${name} newest=${one.revision} />
      ${editing && html`<${Edit} one=${one} onClose=${() => setEditing(false)} onSaved=${handler.reload} />`}
    `}<//>
  <//>`;
}

function Now({ one }) {
  const { runs, latency, last_error: error } = one.stats;
  const seen = ratesOf(one.name);
  const count = (state) => html`<a href=${link("/runs", { handler: one.name, state })}>${number(runs[state] ?? 0)}</a>`;
  return html`
    <dl class="pairs">
      <div><dt>state</dt><dd><${State} state=${condition(one)} /> ${one.paused_reason ?? one.waits_because ?? ""}</dd></div>
      <div><dt>pool</dt><dd>${one.placed_in.pool} <span class="dim">${plain(one.placed_in.reason)}</span></dd></div>
      <div><dt>revision</dt><dd>${one.revision}, <${Time} at=${one.updated_at} /></dd></div>
      <div><dt>declared by</dt><dd>${one.source === "code" ? "code" : "a client over HTTP"}</dd></div>
      <div><dt>runs</dt><dd>${["available", "running", "retryable", "succeeded", "dead", "cancelled"].map((state, at) => html`${at ? ", " : ""}${count(state)} ${state}`)}</dd></div>
      <div><dt>rate</dt><dd data-rate>${seen ? html`${rate(seen.ended)} runs/min, ${rate(seen.dead)} dead/min <span class="dim">in the last ${duration(Math.round(seen.seconds))}${seen.seconds < 590 && ", since a page of handlers was first opened"}</span>` : html`<span class="dim">–</span>`}</dd></div>
      <div><dt>latency</dt><dd>p50 ${duration(latency.p50)}, p95 ${duration(latency.p95)} <span class="dim">of ${plural(latency.attempts, "attempt")}</span></dd></div>
    </dl>
    ${error && html`<p class="error">Last error: <strong><${Name} text=${error.type} /></strong>: <${Name} text=${error.message} most=${400} /> <a href=${link("/dead", { handler: one.name })}>Dead runs</a></p>`}
    ${error?.traceback && html`<details><summary>Its stack</summary><${Text} text=${error.traceback} label="Stack of the last error" /></details>`}
  `;
}

function Fields({ one, reload }) {
  const overridden = Object.keys(one.overrides);
  const reset = () => patch(`v1/handlers/${one.name}`, Object.fromEntries(overridden.map((name) => [name, null]))).then(reload);
  const shown = (value) => (value === null ? html`<span class="dim">none</span>` : typeof value === "object" ? html`<code>${plain(JSON.stringify(value))}</code>` : plain(String(value)));
  return html`<${Section} title="Fields" actions=${overridden.length > 0 && html`<${Action} name="reset" run=${reset} done="The values of the code are back">Back to the code's values<//>`}>
    <dl class="pairs">
      ${SHOWN.map((name) => html`<div><dt>${name}</dt><dd>${shown(one[name])} ${overridden.includes(name) && html`<${State} state="overrides the code" tone="warn" />`}</dd></div>`)}
    </dl>
  <//>`;
}

// -- test

const SAMPLE = (one) => ({ type: one.events.find((pattern) => !pattern.includes("*")) ?? one.events[0].replaceAll("*", "x"), data: {} });

function Test({ one, like }) {
  const [text, setText] = useState(JSON.stringify(SAMPLE(one), null, 2));
  const [answer, setAnswer] = useState(null);
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const fill = async () => {
    const path = like ? `v1/events/${like}` : null;
    const event = path ? await get(path) : (await get(withQuery("v1/events", { type: one.events[0], limit: 1 }))).items[0];
    if (!event) return notify("No event of this type is stored.", "bad");
    const { seq, runs, truncated, ...rest } = event;
    return setText(JSON.stringify(rest, null, 2));
  };
  const submit = async (event) => {
    event.preventDefault();
    setError(null);
    setBusy(true);
    try {
      setAnswer(await post(`v1/handlers/${one.name}/test`, { event: parse(text) }));
    } catch (problem) {
      setError(problem instanceof SyntaxError ? new Error(`The event must be JSON: ${problem.message}`) : problem);
    } finally {
      setBusy(false);
    }
  };
  return html`<${Section} title="Test" name="test">
    <p class="dim">Runs the handler once with this event, now, in its pool. Nothing is stored.</p>
    <form onSubmit=${submit} class="grid">
      <${Field} wide label="Event (JSON)"><textarea rows="6" value=${text} onInput=${(event) => setText(event.target.value)} spellcheck="false" name="event"></textarea><//>
      <div class="buttons"><button class="primary" disabled=${busy} data-action="test">${busy ? "Running…" : "Run the test"}</button>
        <button type="button" onClick=${() => fill().catch(setError)}>Take the newest event</button></div>
    </form>
    <${Trouble} error=${error} />
    ${answer && html`<${Outcome} answer=${answer} />`}
  <//>`;
}

function Outcome({ answer }) {
  return html`<div class="attempt" data-section="outcome">
    <p class="fine"><${State} state=${answer.outcome} /> ${duration(answer.wall_time)} · CPU ${duration(answer.cpu_time)} · ${bytes(answer.peak_memory)} · ${answer.pool} · revision ${answer.revision}${answer.matches ? "" : " · the handler's patterns do not match this event"}</p>
    ${answer.error && html`<p class="error"><strong>${plain(answer.error.type)}</strong>: <${Name} text=${answer.error.message} most=${500} /></p>`}
    ${answer.error?.traceback && html`<${Text} text=${answer.error.traceback} label="Stack" />`}
    ${answer.partials.length > 0 && html`<h3>Partial results</h3>${answer.partials.map((each) => html`<${Json} value=${each.data} binary=${each.data_base64} label=${`Partial ${each.index}`} />`)}`}
    ${answer.outcome === "succeeded" && html`<h3>Value</h3><${Json} value=${answer.data} binary=${answer.data_base64} label="Value" />`}
    ${answer.published.length > 0 && html`<h3>Would publish</h3><${Json} value=${answer.published} label="Published events" />`}
    ${answer.log && html`<h3>Log</h3><${Text} text=${answer.log} label="Log" />`}
  </div>`;
}

// -- replay

function Replays({ one }) {
  const [error, setError] = useState(null);
  const replays = useQuery(withQuery("v1/replays", { handler: one.name, limit: 10 }), { every: 3000 });
  const submit = async (event) => {
    event.preventDefault();
    setError(null);
    const form = new FormData(event.currentTarget);
    const bound = (name) => (form.get(name) ? Number(form.get(name)) : null);
    const types = form.get("types").split(/[\s,]+/).filter(Boolean);
    try {
      await post(`v1/handlers/${one.name}/replay`, { types: types.length ? types : null, after: bound("after"), before: bound("before"), shadow: form.get("shadow") === "on" });
      replays.reload();
    } catch (problem) {
      setError(problem);
    }
  };
  return html`<${Section} title="Replay" name="replay">
    <p class="dim">Runs stored events again with revision ${one.revision}. A shadow replay publishes nothing, and its results are compared with those on record.</p>
    <form class="grid" onSubmit=${submit}>
      <${Field} label="Types"><input name="types" placeholder=${one.events.join(" ")} spellcheck="false" /><//>
      <${Field} label="After event"><input name="after" type="number" min="0" /><//>
      <${Field} label="Before event"><input name="before" type="number" min="0" /><//>
      <label class="check"><input type="checkbox" name="shadow" defaultChecked /> Shadow</label>
      <div class="buttons"><button data-action="replay">Replay</button></div>
    </form>
    <${Trouble} error=${error} />
    <${Loaded} of=${replays}>${({ items }) => html`<${Table} label="Replays" rows=${items} id=${(each) => each.id} href=${(each) => link(`/replays/${each.id}`)} empty="No replay of this handler yet."
      columns=${[
        { name: "Replay", cell: (each) => number(each.id) },
        { name: "State", cell: (each) => html`<${State} state=${each.state} tone=${each.state === "finished" || each.state === "done" ? "good" : undefined} />` },
        { name: "Kind", cell: (each) => (each.shadow ? "shadow" : "real") },
        { name: "Runs", kind: "num", cell: (each) => number(each.created) },
        { name: "Begun", kind: "grow", cell: (each) => html`<${Time} at=${each.created_at} />` },
      ]} />`}<//>
  <//>`;
}
