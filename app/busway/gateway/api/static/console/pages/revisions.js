// The revisions of a handler: what each of them changed, fields and source.

import { get, may, useQuery } from "../api.js";
import { hunks } from "../diff.js";
import { html, useMemo, useState } from "../lib.js";
import { plain } from "../text.js";
import { Loaded, Section, State, Text, Time } from "../ui.js";

const VERSIONED = ["target", "events", "filter", "pool", "timeout", "max_attempts", "backoff", "concurrency", "rate", "ordered", "memory", "breaker"];
const LISTED = 20;
const SHOWN = 2000; // lines of a difference

const path = (name, revision) => `v1/handlers/${name}/revisions/${revision}`;

export function Revisions({ name, newest }) {
  const revisions = useQuery(`v1/handlers/${name}/revisions?limit=${LISTED}`);
  return html`<${Section} title="Revisions" name="revisions">
    <${Loaded} of=${revisions}>${({ items }) => items.map((each, at) => html`<${Revision} key=${each.revision} name=${name} one=${each} before=${items[at + 1]} current=${each.revision === newest} />`)}<//>
  <//>`;
}

function Revision({ name, one, before, current }) {
  const [open, setOpen] = useState(current);
  return html`<details class="attempt" open=${open} onToggle=${(event) => setOpen(event.currentTarget.open)}>
    <summary>Revision ${one.revision} ${current && html`<${State} state="current" tone="good" />`} <span class="dim"><${Time} at=${one.created_at} /></span></summary>
    ${open && html`
      ${before ? html`<${Fields} now=${one} before=${before} />` : html`<p class="dim">${one.revision === 1 ? "The first revision." : "The revision before it is not listed."}</p>`}
      <${Source} name=${name} now=${one} before=${before} />`}
  </details>`;
}

/** What changed in a handler between two of its revisions, given by their numbers. */
export function Comparison({ name, from, to }) {
  const load = async (_, options) => Promise.all([from, to].map((each) => get(path(name, each), options)));
  const both = useQuery(`${path(name, from)}…${to}`, { load });
  return html`<${Loaded} of=${both}>${([before, now]) => html`<${Fields} now=${now} before=${before} /><${Compared} now=${now} before=${before} />`}<//>`;
}

function Fields({ now, before }) {
  const changed = VERSIONED.filter((name) => JSON.stringify(now[name]) !== JSON.stringify(before[name]));
  if (!changed.length) return html`<p class="dim">${now.file_digest === before.file_digest ? "Nothing that is listed changed." : "Only the source changed."}</p>`;
  return html`<div class="diff" tabindex="0" role="group" aria-label="Changed fields">${changed.map((name) => html`
    <div class="removed">- ${name}: ${plain(JSON.stringify(before[name]))}</div><div class="added">+ ${name}: ${plain(JSON.stringify(now[name]))}</div>`)}</div>`;
}

function Source({ name, now, before }) {
  return may("handlers:write") ? html`<${Readable} name=${name} now=${now} before=${before} />` : html`<p class="dim">To read the source, this key needs the scope <code>handlers:write</code>.</p>`;
}

function Readable({ name, now, before }) {
  const changed = before && before.file_digest !== now.file_digest;
  const detail = useQuery(path(name, now.revision));
  const old = useQuery(changed ? path(name, before.revision) : null);
  return html`<${Loaded} of=${detail}>${(one) => html`
    ${changed && html`<${Loaded} of=${old}>${(other) => html`<${Compared} now=${one} before=${other} />`}<//>`}
    ${one.source === null
      ? !changed && html`<p class="dim">No source: ${plain(one.source_missing)}.</p>`
      : html`<details><summary>Source</summary><${Text} text=${one.source} label=${`Source of revision ${one.revision}`} /></details>`}
  `}<//>`;
}

function Compared({ now, before }) {
  const found = useMemo(() => (now.source === null || before.source === null ? null : hunks(before.source, now.source)), [now.source, before.source]);
  if (now.file_digest === before.file_digest) return null;
  if (found === null) {
    const lacks = now.source === null ? now : before;
    return html`<p class="dim">The source file changed. Revision ${lacks.revision} has no source: ${plain(lacks.source_missing)}.</p>`;
  }
  let left = SHOWN;
  const shown = found.map((lines) => lines.slice(0, Math.max(0, left)).filter(() => (left -= 1) >= 0));
  return html`<p>Source, compared with revision ${before.revision}:</p>
    <div class="diff" tabindex="0" role="group" aria-label=${`Changes of the source from revision ${before.revision} to ${now.revision}`} data-section="source-diff">
      ${shown.map((lines) => lines.length > 0 && html`<div class="hunk">line ${lines[0].line || 1}</div>${lines.map((each) => html`<div class=${each.kind}>${MARKS[each.kind]} ${plain(each.text.slice(0, 1000))}</div>`)}`)}
      ${left < 0 && html`<div class="hunk">More lines differ.</div>`}
    </div>`;
}

const MARKS = { same: " ", added: "+", removed: "-" };
