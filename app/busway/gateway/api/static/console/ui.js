// Components that all pages share.

import { connection, Unreachable } from "./api.js";
import { html, Plotter, store, useEffect, useLayoutEffect, useRef, useState } from "./lib.js";
import { change } from "./router.js";
import { ago, plain } from "./text.js";

const STEP = 2_000; // characters of a value that are shown at first
const MORE = 50_000; // and with each "show more"

// -- time

const now = store(Date.now());
setInterval(() => document.hidden || now.set(Date.now()), 1000);

/** A time as it is felt, with the exact one on hover. */
export function Time({ at, none = "–" }) {
  const present = now.use();
  if (!at) return html`<span class="dim">${none}</span>`;
  return html`<time datetime=${at} title=${exact(at)}>${ago(at, present)}</time>`;
}

/** A time of day to the millisecond, for logs. */
export function Clock({ at }) {
  const date = new Date(at);
  const text = date.toLocaleTimeString("en-GB") + "." + String(date.getMilliseconds()).padStart(3, "0");
  return html`<time datetime=${at} title=${exact(at)}>${text}</time>`;
}

export const exact = (at) => `${new Date(at).toString().replace(/ \(.*/, "")} (${at})`;

// -- words

const TONES = {
  succeeded: "good", ready: "good", online: "good", connected: "good", active: "good", healthy: "good",
  running: "busy", partial: "busy", available: "calm", waiting: "calm", idle: "calm",
  retryable: "warn", failed: "warn", lost: "warn", paused: "warn", lagging: "warn", missing: "warn",
  dead: "bad", refused: "bad", broken: "bad", revoked: "bad", expired: "bad", offline: "bad",
}; // prettier-ignore

/** A state as a word and a color. */
export function State({ state, tone }) {
  return html`<span class=${`state ${tone ?? TONES[state] ?? "calm"}`}>${state}</span>`;
}

/** A text of an event, on one line, without power over its surroundings. */
export const Name = ({ text, most = 120 }) => {
  const shown = plain(text);
  return html`<bdi class="name" title=${shown.slice(0, 500)}>${
    shown.length > most ? `${shown.slice(0, most)}…` : shown
  }</bdi>`;
};

// -- values

/** A text in full, cut with "show more". */
export function Text({ text, label = "text" }) {
  const [most, setMost] = useState(STEP);
  const shown = plain(text.slice(0, most));
  const left = text.length - most;
  return html`<div class="value">
    <pre tabindex="0" role="group" aria-label=${label} dir="ltr"><bdi>${shown}</bdi>${left > 0 && "…"}</pre>
    ${left > 0 &&
    html`<p class="cut">
      <button type="button" class="quiet" onClick=${() => setMost(most + MORE)}>Show more</button>
      <span class="dim">${left.toLocaleString("en")} characters left out</span>
    </p>`}
  </div>`;
}

/** Any value of JSON. `short`: on one line if it fits there. */
export function Json({ value, binary, label = "data", short = false }) {
  if (binary !== undefined && binary !== null) return html`<${Text} text=${`base64: ${binary}`} label=${label} />`;
  if (value === undefined) return html`<p class="dim">none</p>`;
  const text = JSON.stringify(value, null, 2);
  if (short && text.length < 200) return html`<code dir="ltr"><bdi>${plain(JSON.stringify(value))}</bdi></code>`;
  return html`<${Text} text=${text} label=${label} />`;
}

/** A line to copy. */
export function Snippet({ text, label }) {
  const [done, setDone] = useState(false);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setDone(true);
      setTimeout(() => setDone(false), 2000);
    } catch {
      notify("The browser does not allow copying on this page: select the text.", "bad");
    }
  };
  return html`<div class="snippet">
    <div class="bar">
      <span>${label}</span>
      <button type="button" class="quiet" aria-label=${`Copy: ${label}`} onClick=${copy}>${done ? "Copied" : "Copy"}</button>
    </div>
    <pre tabindex="0" role="group" aria-label=${label} dir="ltr">${plain(text)}</pre>
  </div>`;
}

// -- what happens

const notices = store([]);
let counted = 0;

/** Tell what happened, for some seconds. */
export function notify(text, tone = "good") {
  const id = (counted += 1);
  notices.set([...notices.get().slice(-3), { id, text, tone }]);
  setTimeout(() => notices.set(notices.get().filter((each) => each.id !== id)), tone === "bad" ? 10_000 : 4000);
}

export function Notices() {
  const shown = notices.use();
  return html`<div class="notices" role="status" aria-live="polite">
    ${shown.map(
      (each) => html`<p key=${each.id} class=${`notice ${each.tone}`}>
        <span>${plain(each.text)}</span>
        <button type="button" class="quiet" aria-label="Dismiss"
          onClick=${() => notices.set(notices.get().filter((other) => other.id !== each.id))}>×</button>
      </p>`,
    )}
  </div>`;
}

/** A button for a slow action. It shows the outcome. With `confirm` it asks first. */
export function Action({ run, done, confirm, kind = "", disabled = false, children, label, name }) {
  const [busy, setBusy] = useState(false);
  const press = async () => {
    if (confirm && !(await ask(confirm))) return;
    setBusy(true);
    try {
      const result = await run();
      const told = typeof done === "function" ? done(result) : done;
      if (told) notify(told);
    } catch (problem) {
      notify(problem.message, "bad");
    } finally {
      setBusy(false);
    }
  };
  return html`<button type="button" class=${kind} disabled=${busy || disabled} aria-label=${label} onClick=${press} data-action=${name}>
    ${busy ? "…" : children}
  </button>`;
}

const question = store(null);

/** Ask before something that cannot be undone: `{title, text, yes}`. Resolves with the answer. */
export function ask(asked) {
  return new Promise((resolve) => question.set({ ...asked, resolve }));
}

export function Question() {
  const asked = question.use();
  if (!asked) return null;
  const answer = (given) => {
    question.set(null);
    asked.resolve(given);
  };
  return html`<${Dialog} title=${asked.title} onClose=${() => answer(false)}>
    <p>${plain(asked.text)}</p>
    <div class="buttons">
      <button type="button" class="primary danger" onClick=${() => answer(true)}>${asked.yes}</button>
      <button type="button" onClick=${() => answer(false)}>Keep it</button>
    </div>
  <//>`;
}

export function Dialog({ title, onClose, children, wide = false }) {
  const box = useRef(null);
  useEffect(() => {
    box.current.showModal();
  }, []);
  const outside = (event) => event.target === box.current && onClose();
  return html`<dialog ref=${box} class=${wide ? "wide" : ""} aria-label=${title} onClose=${onClose} onClick=${outside}>
    <div class="inside">
      <header><h2>${title}</h2><button type="button" class="quiet" aria-label="Close" onClick=${onClose}>×</button></header>
      ${children}
    </div>
  </dialog>`;
}

// -- parts of a page

/** A page: its title, its actions, its content. */
export function Page({ title, tab = title, about, actions, children }) {
  const heading = useRef(null);
  useEffect(() => {
    document.title = `${plain(tab)} · Busway`;
  }, [tab]);
  useEffect(() => heading.current.focus({ preventScroll: true }), []);
  return html`<main id="main">
    <header class="page">
      <div><h1 ref=${heading} tabindex="-1">${title}</h1>${about && html`<p class="about">${about}</p>`}</div>
      ${actions && html`<div class="buttons">${actions}</div>`}
    </header>
    ${children}
  </main>`;
}

export function Section({ title, actions, children, name }) {
  return html`<section aria-label=${title} data-section=${name}>
    <header class="section"><h2>${title}</h2>${actions && html`<div class="buttons">${actions}</div>`}</header>
    ${children}
  </section>`;
}

/** What stands where there is nothing: what it would show, and how to get there. */
export function Empty({ title, children }) {
  return html`<div class="empty"><p class="what">${title}</p>${children}</div>`;
}

export function Trouble({ error }) {
  if (!error || error instanceof Unreachable) return null; // the bar at the top shows that the gateway is unreachable
  return html`<div class="trouble" role="alert">
    <p>${plain(error.message)}</p>
    ${error.errors?.length > 0 &&
    html`<ul>
      ${error.errors.slice(0, 10).map((each) => html`<li><code>${each.loc.slice(1).join(".")}</code> ${plain(each.msg)}</li>`)}
    </ul>`}
  </div>`;
}

/** What a query gave: while it loads, its error, or what `children` makes of its data. */
export function Loaded({ of, children }) {
  const { online } = connection.use();
  if (of.data !== null) return html`<${Trouble} error=${of.error} />${children(of.data)}`;
  if (of.error && !(of.error instanceof Unreachable)) return html`<${Trouble} error=${of.error} />`;
  return html`<p class="loading dim">${online ? "Loading…" : "Waiting for the gateway…"}</p>`;
}

/**
 * A table. Columns are `{name, cell, kind}`: kind is "num" for aligned numbers, "grow" for what takes the room that
 * is left, "wide" for what phones leave out, "extra" for what only wide screens show. A column without a name has the
 * actions: it stays in sight. On phones a row becomes lines with the names of its columns; roles keep it a row. `href` gives the address of a row: its first cell is the link.
 */
export function Table({ label, columns, rows, id, href, empty = "Nothing here." }) {
  const kind = (each) => (each.name ? each.kind : "act");
  if (!rows.length) return typeof empty === "string" ? html`<p class="dim nothing">${empty}</p>` : empty;
  return html`<div class="table" role="group" aria-label=${label} tabindex="0">
    <table class="rows" role="table">
      <thead role="rowgroup"><tr role="row">${columns.map((each) => html`<th key=${each.name} role="columnheader" scope="col" class=${kind(each)}>${each.name || html`<span class="hidden">Actions</span>`}</th>`)}</tr></thead>
      <tbody role="rowgroup">
        ${rows.map(
          (row) => html`<tr key=${id(row)} role="row">
            ${columns.map((each, at) => {
              const cell = each.cell(row);
              return html`<td role="cell" data-name=${each.name} class=${kind(each)}>${at === 0 && href ? html`<a data-row href=${href(row)}>${cell}</a>` : cell}</td>`;
            })}
          </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}

/** Buttons to the other pages of a list. `after` is the cursor of this page, from the address, `next` that of the next. */
export function Pages({ after, next }) {
  const before = useRef(new Map()); // by cursor: the one of the page before. The address has only one
  const older = () => {
    before.current.set(next, after);
    change({ after: next });
  };
  const known = before.current.has(after);
  return html`<p class="buttons pages">
    ${after && html`<button type="button" onClick=${() => change({ after: before.current.get(after) ?? null })}>${known ? "Newer" : "Newest"}</button>`}
    ${next && html`<button type="button" onClick=${older}>Older</button>`}
  </p>`;
}

/** A figure with its name. */
export const Figure = ({ name, children, tone = "", note }) =>
  html`<div class=${`figure ${tone}`}><dt>${name}</dt><dd>${children}${note && html`<span class="note">${note}</span>`}</dd></div>`;

/** A field of a form. */
export function Field({ label, hint, error, children, wide = false }) {
  return html`<label class=${wide ? "field wide" : "field"}>
    <span class="label">${label}</span>${children}
    ${hint && !error && html`<span class="hint">${hint}</span>`}
    ${error && html`<span class="hint bad" role="alert">${plain(error)}</span>`}
  </label>`;
}

// -- plots

const COLORS = ["--plot-1", "--plot-2", "--plot-3"];

/** Lines over the last seconds. `series` are names, `data` the times in seconds and the values of each series. */
export function Plot({ label, series, data, seconds = 600, height = 160 }) {
  const box = useRef(null);
  const plot = useRef(null);
  const newest = useRef(data);
  newest.current = data;
  const [theme, setTheme] = useState(0);
  useEffect(() => {
    const again = () => setTheme((n) => n + 1);
    const system = matchMedia("(prefers-color-scheme: dark)");
    system.addEventListener("change", again);
    addEventListener("busway-theme", again);
    return () => {
      system.removeEventListener("change", again);
      removeEventListener("busway-theme", again);
    };
  }, []);
  useLayoutEffect(() => {
    const probe = (name) => {
      box.current.style.color = `var(${name})`;
      const found = getComputedStyle(box.current).color;
      box.current.style.color = "";
      return found;
    };
    const axis = { stroke: probe("--dim"), grid: { stroke: probe("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const options = {
      width: box.current.clientWidth || 300,
      height,
      legend: { live: true },
      cursor: { points: { size: 5 } },
      scales: { x: { time: true, range: (_, low, high) => [high - seconds, high] }, y: { range: (_, low, high) => [0, Math.max(1, high * 1.1)] } },
      axes: [{ ...axis, size: 24, space: 80, values: (_, ticks) => ticks.map((at) => new Date(at * 1000).toLocaleTimeString("en-GB").slice(0, 5)) }, { ...axis, size: 44 }],
      series: [
        { value: (_, at) => (at === null ? "" : new Date(at * 1000).toLocaleTimeString("en-GB")), label: "time" },
        ...series.map((name, at) => ({ label: name, stroke: probe(COLORS[at]), width: 1.5, points: { show: false }, value: (_, value) => (value === null || value === undefined ? "–" : value.toFixed(value < 10 ? 1 : 0)) })),
      ],
    };
    const made = new Plotter(options, newest.current, box.current);
    plot.current = made;
    const sizes = new ResizeObserver(() => made.setSize({ width: box.current?.clientWidth || 300, height }));
    sizes.observe(box.current);
    return () => {
      sizes.disconnect();
      made.destroy();
    };
  }, [theme, series.join(), height]);
  useEffect(() => plot.current?.setData(data), [data]);
  return html`<div class="plot" role="img" aria-label=${label} ref=${box}></div>`;
}
