import { all, base, get, post, query as withQuery, session, useQuery } from "../api.js";
import { html, useEffect, useState } from "../lib.js";
import { useResults } from "../live.js";
import { change, link } from "../router.js";
import { isRaw, number, parse, plural, preview } from "../text.js";
import { Field, Page, Section, Snippet, State, Trouble } from "../ui.js";
import { ResultTable } from "./event.js";

const MORE = ["subject", "source", "partitionkey", "priority", "deliverat", "expirytime", "id"];
const START = '{\n  "item": "book",\n  "quantity": 2\n}';
const MOST = 200; // results that are shown

export function Publish({ query }) {
  const [form, setForm] = useState({ type: query.get("type") ?? "", data: START });
  const [error, setError] = useState(null);
  const [sent, setSent] = useState(null);
  const [busy, setBusy] = useState(false);
  const like = query.get("like");
  const example = useQuery(like ? `v1/events/${like}` : null);
  useEffect(() => example.data && setForm(fields(example.data)), [example.data]);
  const set = (name) => (event) => setForm((old) => ({ ...old, [name]: event.target.value }));
  const made = build(form);
  const submit = async (event) => {
    event.preventDefault();
    setError(null);
    if (made.error) return setError(new Error(made.error));
    setBusy(true);
    try {
      const { cursor } = await get("v1/results?last=1"); // results after it are those of this event, too
      setSent({ ...(await post("v1/events", made.event)), cursor });
      change({ type: form.type, like: null });
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy(false);
    }
    return undefined;
  };
  return html`<${Page} title="Publish" about="Store an event, and see what it causes.">
    <form class="grid" onSubmit=${submit}>
      <${Field} label="Type" hint="Handlers are chosen by it."><${Types} value=${form.type} onInput=${set("type")} /><//>
      <${Field} label="Subject"><input name="subject" value=${form.subject ?? ""} onInput=${set("subject")} spellcheck="false" /><//>
      <div class="wide"><${Examples} type=${form.type} onChoose=${(event) => setForm(fields(event))} /></div>
      <${Field} wide label="Data (JSON)" error=${made.error}><textarea name="data" rows="7" value=${form.data} onInput=${set("data")} spellcheck="false"></textarea><//>
      <details class="wide"><summary>More attributes</summary>
        <div class="grid-inside">${MORE.filter((name) => name !== "subject").map((name) => html`<${Field} label=${name}><input name=${name} value=${form[name] ?? ""} onInput=${set(name)} spellcheck="false" placeholder=${PLACEHOLDERS[name]} /><//>`)}</div>
      </details>
      <div class="buttons"><button class="primary" disabled=${busy} data-action="publish">${busy ? "…" : "Publish"}</button></div>
    </form>
    <${Trouble} error=${error} />
    ${sent && html`<${Sent} key=${sent.seq} receipt=${sent} />`}
    <${Section} title="The same from elsewhere">
      <${Snippet} label="curl" text=${curl(made.event)} />
      <${Snippet} label="Python" text=${python(made.event)} />
    <//>
  <//>`;
}

const PLACEHOLDERS = { source: "/", priority: "4", deliverat: "2027-01-31T12:00:00Z", expirytime: "2027-01-31T12:00:00Z", id: "made by the gateway" };

function fields(event) {
  const form = { type: event.type, data: event.data === undefined ? "" : JSON.stringify(event.data, null, 2) };
  for (const name of MORE) if (name !== "id" && event[name] !== undefined && event[name] !== null) form[name] = String(event[name]);
  return form;
}

function build(form) {
  const event = { type: form.type || "order.created" };
  for (const name of MORE) if (form[name]) event[name] = name === "priority" ? Number(form[name]) : form[name];
  try {
    if (form.data.trim()) event.data = parse(form.data);
    return { event };
  } catch (problem) {
    return { event, error: `The data must be JSON: ${problem.message}` };
  }
}

/** The field for the type, with the types that handlers wait for and that came lately. */
function Types({ value, onInput }) {
  const handlers = useQuery("v1/handlers", { load: all });
  const events = useQuery("v1/events?limit=50");
  const known = new Set();
  for (const handler of handlers.data?.items ?? []) for (const pattern of handler.events) if (!pattern.includes("*")) known.add(pattern);
  for (const event of events.data?.items ?? []) known.add(event.type);
  return html`<input name="type" value=${value} onInput=${onInput} list="types" required placeholder="order.created" spellcheck="false" autocomplete="off" />
    <datalist id="types">${[...known].sort().map((type) => html`<option value=${type}></option>`)}</datalist>`;
}

/** The last events of a type, to begin from. */
function Examples({ type, onChoose }) {
  const [asked, setAsked] = useState(type);
  useEffect(() => {
    const timer = setTimeout(() => setAsked(type), 300); // not for each letter
    return () => clearTimeout(timer);
  }, [type]);
  const events = useQuery(asked ? withQuery("v1/events", { type: asked, limit: 5 }) : null);
  const items = events.data?.items.filter((event) => event.data_base64 === undefined) ?? [];
  if (!items.length) return null;
  return html`<div class="examples"><span class="dim">Last of this type:</span>
    ${items.map((event) => html`<button type="button" class="small" onClick=${() => onChoose(event)} title="Fill the form with it"><code>${preview(event.data ?? null, 50)}</code></button>`)}
  </div>`;
}

function Sent({ receipt }) {
  const [items, setItems] = useState([]);
  useResults({ correlationid: receipt.id, after: receipt.cursor }, (item) => setItems((old) => (old.length < MOST ? [...old, item] : old)));
  const finished = items.some((item) => item.completes) || receipt.runs === 0;
  return html`<${Section} title="Results" name="results" actions=${html`<a class="button" href=${link(`/events/${receipt.seq}`)}>Open event ${number(receipt.seq)}</a>`}>
    <p class="fine"><${State} state=${finished ? "finished" : "running"} tone=${finished ? "good" : "busy"} /> Stored as event ${number(receipt.seq)}${receipt.duplicate ? ", a duplicate" : ""}; ${receipt.runs ? `${plural(receipt.runs, "run")} started.` : "no handler waits for this type."}</p>
    ${items.length > 0 && html`<${ResultTable} items=${items} label="Results of the event" />`}
  <//>`;
}

// -- the same in other words

function curl(event) {
  const key = session.get().signedIn ? ' \\\n  -H "Authorization: Bearer $BUSWAY_KEY"' : "";
  const body = JSON.stringify(event).replaceAll("'", "'\\''");
  return `curl -s ${base()}/v1/events -H 'Content-Type: application/json'${key} \\\n  -d '${body}'`;
}

function python({ type, data, ...attributes }) {
  const more = Object.entries(attributes).map(([name, value]) => `, ${name}=${literal(value)}`).join("");
  const key = session.get().signedIn ? ', key=os.environ["BUSWAY_KEY"]' : "";
  return `${key ? "import os\n\n" : ""}from busway import SyncClient

with SyncClient("${base()}"${key}) as client:
    receipt = client.publish(${literal(type)}, ${literal(data ?? null)}${more})
    print(receipt.seq)
`;
}

/** A JSON value as Python. */
function literal(value) {
  if (value === null) return "None";
  if (isRaw(value)) return value.rawJSON;
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${literal(each)}`).join(", ")}}`;
  return JSON.stringify(value);
}

