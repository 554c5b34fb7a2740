// The first visit, when the gateway has no event yet: three steps to a result, without leaving the page.

import { base, get, post } from "../api.js";
import { html, useState } from "../lib.js";
import { useResults } from "../live.js";
import { link } from "../router.js";
import { parse, plural } from "../text.js";
import { Page, Snippet, State, Trouble } from "../ui.js";
import { ResultTable } from "./event.js";

const HANDLER = `from busway import handler

@handler("user.created")
def welcome(event):
    yield {"step": "writing to " + event.data["name"]}
    return {"welcomed": event.data["name"]}
`;

export function First({ handlers, onSkip }) {
  const [receipt, setReceipt] = useState(null);
  const [items, setItems] = useState([]);
  const count = handlers?.length ?? 0;
  const known = handlers?.find((each) => each.events.some((pattern) => !pattern.includes("*")));
  const type = known?.events.find((pattern) => !pattern.includes("*")) ?? "user.created";
  const finished = items.some((item) => item.completes);
  return html`<${Page} title="Welcome to Busway" about="Three steps to the first result, on this page." actions=${html`<button type="button" onClick=${onSkip}>Skip to the overview</button>`}>
    <ol class="steps">
      <${Step} number=${1} title="Write a handler" done=${count > 0}>
        ${count > 0
          ? html`<p>${plural(count, "handler")} ${count === 1 ? "is" : "are"} ready: ${handlers.slice(0, 5).map((each) => html`<a href=${link(`/handlers/${each.name}`)}>${each.name}</a> `)}</p>`
          : html`<p>Save this in the handlers folder of the gateway. With <code>--reload</code> it appears here at once, otherwise after a restart. This page waits.</p>
              <${Snippet} label="handlers/welcome.py" text=${HANDLER} />`}
      <//>
      <${Step} number=${2} title="Publish an event" done=${receipt !== null}>
        <${Publish} key=${type} type=${type} done=${(event) => setReceipt(event)} sent=${receipt} />
      <//>
      <${Step} number=${3} title="See the result" done=${finished}>
        ${receipt === null && html`<p class="dim">The results arrive here as your handler produces them.</p>`}
        ${receipt !== null && html`<${Arriving} receipt=${receipt} items=${items} onItem=${(item) => setItems((old) => [...old, item])} />`}
        ${receipt !== null && receipt.runs === 0 && html`<p>The event is stored, but no handler waits for the type <code>${receipt.type}</code>.</p>`}
        ${items.length > 0 && html`<${ResultTable} items=${items} label="Results" />`}
        ${finished && html`<p><a class="button primary" href=${link(`/events/${receipt.seq}`)}>See how it ran</a> <button type="button" onClick=${onSkip}>Go to the overview</button></p>`}
      <//>
    </ol>
  <//>`;
}

function Step({ number, title, done, children }) {
  return html`<li class=${done ? "done" : ""}><h2><span class="step" aria-hidden="true">${done ? "✓" : number}</span> ${title} ${done && html`<${State} state="done" tone="good" />`}</h2>${children}</li>`;
}

function Publish({ type, done, sent }) {
  const [text, setText] = useState('{"name": "Ada"}');
  const [error, setError] = useState(null);
  const submit = async (event) => {
    event.preventDefault();
    setError(null);
    try {
      const wanted = new FormData(event.target).get("type");
      const { cursor } = await get("v1/results?last=1");
      done({ ...(await post("v1/events", { type: wanted, data: parse(text) })), cursor });
    } catch (problem) {
      setError(problem instanceof SyntaxError ? new Error(`The data must be JSON: ${problem.message}`) : problem);
    }
  };
  const curl = `curl -s ${base()}/v1/events -H 'Content-Type: application/json' -d '{"type": "${type}", "data": ${text.replaceAll("'", "'\\''")}}'`;
  return html`<form onSubmit=${submit} class="inline">
    <label class="field"><span class="label">Type</span><input name="type" defaultValue=${type} required spellcheck="false" /></label>
    <label class="field wide"><span class="label">Data (JSON)</span><input name="data" value=${text} onInput=${(event) => setText(event.target.value)} spellcheck="false" /></label>
    <button class="primary">Publish</button>
    ${sent && html`<p>Stored as event ${sent.seq}. ${plural(sent.runs, "run")} started.</p>`}
    <${Trouble} error=${error} />
    <${Snippet} label="The same from a terminal" text=${curl} />
  </form>`;
}

function Arriving({ receipt, items, onItem }) {
  useResults({ correlationid: receipt.id, after: receipt.cursor }, onItem);
  return items.length ? null : html`<p class="dim">Waiting for the first result…</p>`;
}
