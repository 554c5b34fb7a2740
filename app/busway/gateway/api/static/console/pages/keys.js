import { all, closed, post, remove, session, useQuery } from "../api.js";
import { html, useState } from "../lib.js";
import { signIn } from "../session.js";
import { plain } from "../text.js";
import { Action, Dialog, Empty, Field, Loaded, Name, Page, Snippet, State, Table, Time, Trouble } from "../ui.js";

const SCOPES = { publish: "publish events", subscribe: "read events, runs and results", "handlers:read": "read handlers", "handlers:write": "change handlers, retry, cancel", admin: "everything" };

export function Keys() {
  const keys = useQuery("v1/keys", { every: 5000, load: all });
  const [adding, setAdding] = useState(false);
  const [secret, setSecret] = useState(null);
  const show = async (made) => {
    setAdding(false);
    setSecret(made);
    // The first key closes the gateway. The sign-in view would take the place of the key, which is shown only once.
    if (!session.get().signedIn) await signIn(made.key);
    keys.reload();
  };
  const live = (keys.data?.items ?? []).filter((one) => !one.revoked_at);
  return html`<${Page} title="Keys" about="What lets programs and people in." actions=${html`<button type="button" class="primary" onClick=${() => setAdding(true)} data-action="add">New key</button>`}>
    <${Loaded} of=${keys}>${({ items }) => html`<${Table} label="API keys" rows=${items} id=${(one) => one.id}
      columns=${[
        { name: "Key", kind: "num", cell: (one) => one.id },
        { name: "Name", kind: "grow", cell: (one) => html`<${Name} text=${one.name} />` },
        { name: "State", cell: (one) => html`<${State} state=${condition(one)} />` },
        { name: "Scopes", cell: (one) => one.scopes.join(", ") },
        { name: "Types", kind: "wide", cell: (one) => (one.types ? html`<code>${plain(one.types.join(", "))}</code>` : "all") },
        { name: "Last used", cell: (one) => html`<${Time} at=${one.last_used_at} none="never" />` },
        { name: "Expires", kind: "wide", cell: (one) => html`<${Time} at=${one.expires_at} none="never" />` },
        { name: "", cell: (one) => !one.revoked_at && html`<div class="buttons">
          <${Action} kind="small" label=${`Rotate key ${one.id}`} run=${() => post(`v1/keys/${one.id}/rotate`, {}).then((made) => (setSecret(made), keys.reload()))}
            confirm=${{ title: `Rotate key ${one.id}?`, text: "A new key takes its place. The old one stays valid for an hour.", yes: "Rotate" }}>Rotate<//>
          <${Action} kind="small danger" label=${`Revoke key ${one.id}`} run=${() => remove(`v1/keys/${one.id}`).then(keys.reload)} done=${`Key ${one.id} is revoked`}
            confirm=${{ title: `Revoke key ${one.id}?`, text: `Programs that use it (${plain(one.name)}) are refused at once, and their connections close.`, yes: "Revoke the key" }}>Revoke<//>
        </div>` },
      ]}
      empty=${html`<${Empty} title="No key yet."><p>Without a key everybody on this machine has full access. The first key closes the gateway: make it one with the scope admin, and sign in with it.</p><//>`} />`}<//>
    ${adding && html`<${New} first=${!live.length} onClose=${() => setAdding(false)} onMade=${show} />`}
    ${secret && html`<${Dialog} title=${`Key ${secret.id}: ${plain(secret.name)}`} onClose=${() => setSecret(null)} wide>
      <p>Copy the key now. It is shown only once.</p>
      <${Snippet} label="API key" text=${secret.key} />
    <//>`}
  <//>`;
}

function condition(one) {
  if (one.revoked_at) return "revoked";
  return one.expires_at && Date.parse(one.expires_at) < Date.now() ? "expired" : "active";
}

function New({ first, onClose, onMade }) {
  const [error, setError] = useState(null);
  const submit = async (event) => {
    event.preventDefault();
    setError(null);
    const form = new FormData(event.currentTarget);
    const types = form.get("types").split(/[\s,]+/).filter(Boolean);
    const days = Number(form.get("days"));
    const made = { name: form.get("name").trim(), scopes: form.getAll("scopes"), types: types.length ? types : null };
    if (days) made.expires_at = new Date(Date.now() + days * 86_400_000).toISOString();
    try {
      await closed(async () => onMade(await post("v1/keys", made)));
    } catch (problem) {
      setError(problem);
    }
  };
  return html`<${Dialog} title="New key" onClose=${onClose} wide>
    ${first && html`<p class="hint bad">This is the first key: from then on each request needs one. Give it the scope admin, and sign in with it here.</p>`}
    <form class="grid" onSubmit=${submit}>
      <${Field} label="Name" hint="who uses it"><input name="name" required maxlength="255" spellcheck="false" /><//>
      <${Field} label="Expires after days" hint="empty: never"><input name="days" type="number" min="1" /><//>
      <${Field} label="Types" hint="patterns; empty: all. Only with publish and subscribe"><input name="types" placeholder="order.**" spellcheck="false" /><//>
      <fieldset class="wide"><legend>Scopes</legend>
        ${Object.entries(SCOPES).map(([name, what]) => html`<label class="check"><input type="checkbox" name="scopes" value=${name} defaultChecked=${first && name === "admin"} /> <code>${name}</code> <span class="dim">${what}</span></label>`)}
      </fieldset>
      <div class="wide"><${Trouble} error=${error} /></div>
      <div class="buttons"><button class="primary" data-action="save">Create</button><button type="button" onClick=${onClose}>Discard</button></div>
    </form>
  <//>`;
}
