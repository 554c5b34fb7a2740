import { address, all, patch, post, remove, useQuery } from "../api.js";
import { html, useState } from "../lib.js";
import { plain } from "../text.js";
import { Action, Dialog, Empty, Field, Loaded, Name, notify, Page, Snippet, State, Table, Time, Trouble } from "../ui.js";

const KINDS = { github: "GitHub", stripe: "Stripe", slack: "Slack", standard: "Standard Webhooks", hmac: "HMAC-SHA256 of the body" };
const GIVEN = ["stripe", "slack"]; // these senders make the secret

export function Webhooks() {
  const sources = useQuery("v1/sources", { every: 5000, load: all });
  const [dialog, setDialog] = useState(null); // {of: "edit" | "rotate", one} or {secret}
  const close = () => setDialog(null);
  const show = (saved) => {
    setDialog(saved.secret ? { of: "secret", one: saved } : null);
    sources.reload();
  };
  const pause = (one) => patch(`v1/sources/${one.name}`, { paused: !one.paused }).then(sources.reload);
  const word = (one) => (one.paused ? "Resume" : "Pause");
  return html`<${Page} title="Webhooks" about="Senders whose signed requests become events." actions=${html`<button type="button" class="primary" onClick=${() => setDialog({ of: "edit", one: null })} data-action="add">New source</button>`}>
    <${Loaded} of=${sources}>${({ items }) => html`<${Table} label="Sources of webhooks" rows=${items} id=${(one) => one.name}
      columns=${[
        { name: "Source", cell: (one) => html`<${Name} text=${one.name} />` },
        { name: "State", cell: (one) => html`<${State} state=${one.paused ? "paused" : "active"} />` },
        { name: "Kind", kind: "wide", cell: (one) => KINDS[one.kind] ?? plain(one.kind) },
        { name: "Type of its events", kind: "grow", cell: (one) => html`<code>${plain(one.type)}</code>${one.filter && html` <span class="dim">filtered</span>`}` },
        { name: "Address", kind: "wide", cell: (one) => html`<code>${`/v1/hooks/${one.name}`}</code>` },
        { name: "Secret before", kind: "wide", cell: (one) => (one.previous_secret_until ? html`valid, ends <${Time} at=${one.previous_secret_until} />` : html`<span class="dim">none</span>`) },
        { name: "", cell: (one) => html`<div class="buttons">
          <${Action} kind="small" label=${`${word(one)} ${one.name}`} run=${() => pause(one)} done=${`${one.name} is ${word(one).toLowerCase()}d`}>${word(one)}<//>
          <button type="button" class="small" aria-label=${`Edit ${one.name}`} onClick=${() => setDialog({ of: "edit", one })}>Edit</button>
          <button type="button" class="small" aria-label=${`Rotate the secret of ${one.name}`} onClick=${() => setDialog({ of: "rotate", one })}>Rotate</button>
          <${Action} kind="small danger" label=${`Delete ${one.name}`} run=${() => remove(`v1/sources/${one.name}`).then(sources.reload)} done=${`${one.name} is deleted`}
            confirm=${{ title: `Delete ${one.name}?`, text: "Its webhooks are refused from now on. Its events stay.", yes: "Delete the source" }}>Delete<//>
        </div>` },
      ]}
      empty=${html`<${Empty} title="No source of webhooks yet."><p>A source lets GitHub, Stripe, Slack or another sender post to <code>/v1/hooks/NAME</code>. It checks each signature, and makes an event of each request.</p><//>`} />`}<//>
    ${dialog?.of === "edit" && html`<${Edit} one=${dialog.one} onClose=${close} onSaved=${show} />`}
    ${dialog?.of === "rotate" && html`<${Rotate} one=${dialog.one} onClose=${close} onSaved=${show} />`}
    ${dialog?.of === "secret" && html`<${Dialog} title=${`Secret of ${dialog.one.name}`} onClose=${close} wide>
      <p>Enter both at the sender now. The secret is shown only once.</p>
      <${Snippet} label="Address" text=${address(`v1/hooks/${dialog.one.name}`).href} />
      <${Snippet} label="Secret" text=${dialog.one.secret} />
    <//>`}
  <//>`;
}

const json = (text) => {
  try {
    return text.trim() ? JSON.parse(text) : null;
  } catch (problem) {
    throw new Error(`The filter must be JSON: ${problem.message}`);
  }
};

function Edit({ one, onClose, onSaved }) {
  const [error, setError] = useState(null);
  const [kind, setKind] = useState(one?.kind ?? "github");
  const submit = async (event) => {
    event.preventDefault();
    setError(null);
    const form = new FormData(event.currentTarget);
    const text = (name) => form.get(name)?.trim() || null;
    try {
      const fields = { type: text("type") ?? "", description: text("description") ?? "", filter: json(form.get("filter")) };
      if (kind === "hmac") Object.assign(fields, { signature_header: text("signature_header"), id_header: text("id_header") });
      if (one) {
        await patch(`v1/sources/${one.name}`, fields);
        notify(`${one.name} is changed`);
        return onSaved({});
      }
      return onSaved(await post("v1/sources", { ...fields, name: text("name") ?? "", kind, ...(text("secret") ? { secret: text("secret") } : {}) }));
    } catch (problem) {
      return setError(problem);
    }
  };
  const wrong = (name) => error?.errors?.find(({ loc }) => loc.includes(name))?.msg;
  return html`<${Dialog} title=${one ? `Edit ${one.name}` : "New source of webhooks"} onClose=${onClose} wide>
    <form class="grid" onSubmit=${submit}>
      ${!one && html`<${Field} label="Name" hint="the sender posts to /v1/hooks/NAME" error=${wrong("name")}><input name="name" required spellcheck="false" autocomplete="off" /><//>
      <${Field} label="Kind"><select name="kind" onChange=${(event) => setKind(event.target.value)}>${Object.entries(KINDS).map(([name, what]) => html`<option value=${name} selected=${name === kind}>${what}</option>`)}</select><//>`}
      <${Field} label="Type" hint="{event}, {header.NAME} and {data.PATH} are replaced" error=${wrong("type")}><input name="type" required defaultValue=${one?.type ?? "github.{event}"} spellcheck="false" /><//>
      ${!one && html`<${Field} label="Secret" hint=${GIVEN.includes(kind) ? "the sender shows it in its settings" : "empty: a new one"} error=${wrong("secret")}><input name="secret" type="password" autocomplete="new-password" required=${GIVEN.includes(kind)} /><//>`}
      ${kind === "hmac" && html`<${Field} label="Header of the signature" hint="empty: x-signature" error=${wrong("signature_header")}><input name="signature_header" defaultValue=${one?.signature_header ?? ""} spellcheck="false" /><//>
      <${Field} label="Header of the id" hint="empty: each request is another event" error=${wrong("id_header")}><input name="id_header" defaultValue=${one?.id_header ?? ""} spellcheck="false" /><//>`}
      <${Field} wide label="Filter" hint="JSON; empty: all events" error=${wrong("filter")}><input name="filter" defaultValue=${one?.filter ? JSON.stringify(one.filter) : ""} spellcheck="false" /><//>
      <${Field} wide label="Description"><input name="description" defaultValue=${one?.description ?? ""} /><//>
      <div class="wide"><${Trouble} error=${error} /></div>
      <div class="buttons"><button class="primary" data-action="save">${one ? "Save" : "Create"}</button><button type="button" onClick=${onClose}>Discard</button></div>
    </form>
  <//>`;
}

function Rotate({ one, onClose, onSaved }) {
  const [error, setError] = useState(null);
  const given = GIVEN.includes(one.kind);
  const submit = async (event) => {
    event.preventDefault();
    setError(null);
    const secret = new FormData(event.currentTarget).get("secret")?.trim() || null;
    try {
      onSaved(await patch(`v1/sources/${one.name}`, { secret }));
    } catch (problem) {
      setError(problem);
    }
  };
  return html`<${Dialog} title=${`Rotate the secret of ${one.name}`} onClose=${onClose}>
    <p>The secret of now stays valid for 24 hours, so that you can change it at the sender.</p>
    <form class="grid" onSubmit=${submit}>
      <${Field} wide label="New secret" hint=${given ? "the sender shows it in its settings" : "empty: Busway makes one"}><input name="secret" type="password" autocomplete="new-password" required=${given} /><//>
      <div class="wide"><${Trouble} error=${error} /></div>
      <div class="buttons"><button class="primary" data-action="rotate">Rotate</button><button type="button" onClick=${onClose}>Keep it</button></div>
    </form>
  <//>`;
}
