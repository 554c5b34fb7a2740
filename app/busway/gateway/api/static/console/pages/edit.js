// The dialog that changes the fields of a handler.

import { patch } from "../api.js";
import { html, useState } from "../lib.js";
import { Dialog, Field, notify, Trouble } from "../ui.js";

const list = (text) => text.split(/[\s,]+/).filter(Boolean);
const json = (text) => (text.trim() ? JSON.parse(text) : null);
const count = (text) => (text.trim() ? Number(text) : null);

/** How each field stands in the form, and how it is read from there. */
const FIELDS = [
  { name: "events", read: list, write: (value) => value.join(" "), hint: "type patterns" },
  { name: "target", read: (text) => text.trim(), write: String },
  { name: "pool", options: ["", "process", "thread", "auto"], read: (text) => text || null, write: (value) => value ?? "", hint: "empty: what the gateway was started with" },
  { name: "timeout", read: count, write: String, hint: "seconds" },
  { name: "max_attempts", read: count, write: String },
  { name: "concurrency", read: count, write: (value) => value ?? "", hint: "empty: no limit" },
  { name: "rate", read: (text) => text.trim() || null, write: (value) => value ?? "", hint: "100/s, 60/m, 1000/h" },
  { name: "memory", read: count, write: (value) => value ?? "", hint: "MiB; empty: no limit" },
  { name: "ordered", options: ["false", "true"], read: (text) => text === "true", write: String },
  { name: "filter", wide: true, read: json, write: (value) => (value === null ? "" : JSON.stringify(value)), hint: "JSON; empty: none" },
  { name: "backoff", wide: true, read: json, write: JSON.stringify, hint: "JSON" },
  { name: "description", wide: true, read: (text) => text, write: String },
];

export function Edit({ one, onClose, onSaved }) {
  const [error, setError] = useState(null);
  const submit = async (event) => {
    event.preventDefault();
    setError(null);
    const form = new FormData(event.currentTarget);
    try {
      const changed = {};
      for (const { name, read, write } of FIELDS) {
        const text = form.get(name);
        if (text !== String(write(one[name]))) changed[name] = parsed(name, read, text);
      }
      if (Object.keys(changed).length) {
        const now = await patch(`v1/handlers/${one.name}`, changed);
        notify(now.revision === one.revision ? `${one.name} is changed` : `${one.name} has revision ${now.revision}`);
      }
      onSaved();
      onClose();
    } catch (problem) {
      setError(problem);
    }
  };
  const wrong = (name) => error?.errors?.find(({ loc }) => loc.includes(name))?.msg;
  const about = one.source === "code" ? "What is set here overrides the code until it is reset." : "A change makes a new revision. Waiting runs use it.";
  return html`<${Dialog} title=${`Edit ${one.name}`} onClose=${onClose} wide>
    <p class="dim">${about}</p>
    <form class="grid" onSubmit=${submit}>
      ${FIELDS.map(({ name, write, options, hint, wide }) => html`<${Field} label=${name} hint=${hint} wide=${wide} error=${wrong(name)}>
        ${options
          ? html`<select name=${name}>${options.map((each) => html`<option value=${each} selected=${each === String(write(one[name]))}>${each || "default"}</option>`)}</select>`
          : html`<input name=${name} defaultValue=${write(one[name])} spellcheck="false" />`}
      <//>`)}
      <div class="wide"><${Trouble} error=${error} /></div>
      <div class="buttons"><button class="primary" data-action="save">Save</button><button type="button" onClick=${onClose}>Discard</button></div>
    </form>
  <//>`;
}

function parsed(name, read, text) {
  try {
    return read(text);
  } catch (problem) {
    throw new Error(`${name} must be JSON: ${problem.message}`);
  }
}
