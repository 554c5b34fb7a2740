import { get, query as withQuery, session } from "../api.js";
import { html, useEffect, useMemo, useRef, useState } from "../lib.js";
import { useResults } from "../live.js";
import { change, link } from "../router.js";
import { number, preview, rate } from "../text.js";
import { Clock, Empty, Field, Name, notify, Page, State, Table } from "../ui.js";

const KINDS = ["partial", "succeeded", "failed", "lost", "dead", "cancelled", "completed"];
const KEPT = 1000; // rows in memory
const SHOWN = 100; // rows on the page
const DRAW_EVERY = 400; // ms
const FAST = 50; // rows a second from which on a page is drawn only once a second: nobody reads faster
const BEFORE = 50; // results that are there already when the page begins
const POLL_EVERY = 1000; // ms, for events: only results are pushed

const words = (text) => text.split(/[\s,]+/).filter(Boolean);

export function Live({ query }) {
  const what = query.get("show") === "events" ? "events" : "results";
  const types = query.getAll("types");
  const handlers = query.getAll("handlers");
  const kinds = query.getAll("kinds");
  const filter = query.get("filter") ?? "";
  const feed = useFeed();
  const paused = query.has("paused");
  const [problem, setProblem] = useState(null);
  const parsed = useMemo(() => parse(filter), [filter]);
  const selection = JSON.stringify([what, types, handlers, kinds, filter]);
  const [begun, setBegun] = useState(null); // the selection whose newest results are here
  const cursor = useRef(null); // what comes after it follows
  useEffect(() => {
    feed.clear();
    setProblem(null);
    if (what === "events" || parsed.error) return undefined;
    const ending = new AbortController();
    const begin = async () => {
      const wanted = { types, handlers, kinds, filter: parsed.value && JSON.stringify(parsed.value), last: BEFORE };
      const page = await get(withQuery("v1/results", wanted), { signal: ending.signal });
      for (const item of page.items) feed.add(resultRow(item), false);
      cursor.current = page.cursor;
      setBegun(selection);
    };
    begin().catch((found) => ending.signal.aborted || setProblem(found));
    return () => ending.abort();
  }, [selection]);

  const wanted = useMemo(() => {
    if (what === "events" || paused || begun !== selection) return null;
    return { types, handlers, kinds, filter: parsed.value, after: cursor.current };
  }, [selection, paused, begun]);
  useResults(
    wanted,
    (item) => {
      cursor.current = item.cursor;
      feed.add(resultRow(item));
    },
    (found) => (found.name === "Gap" ? notify("Some results were deleted before they arrived here.", "bad") : setProblem(found)),
  );
  useEvents(what === "events" && !paused, types[0] ?? "", feed);

  const toggle = () => change({ paused: paused ? null : "yes" });
  const actions = html`
    <span class="dim" data-rate>${rate(feed.rate)}/s</span>
    <button type="button" class=${paused ? "primary" : ""} onClick=${toggle} data-action="pause">${paused ? "Resume" : "Pause"}</button>
    <button type="button" onClick=${feed.clear}>Clear</button>
  `;
  const about = what === "results" ? "Results of handlers, the newest first." : "Events that were stored, the newest first.";
  return html`<${Page} title="Live" about=${about} actions=${actions}>
    <${Filters} what=${what} types=${types} handlers=${handlers} kinds=${kinds} filter=${filter} error=${parsed.error ?? problem?.message} />
    ${paused && html`<p class="fine"><${State} state="paused" /> Nothing is lost: what comes meanwhile arrives when you resume.</p>`}
    <${Table} label=${`Live ${what}`} rows=${feed.rows} id=${(row) => row.id} href=${(row) => link(`/events/${row.seq}`, { run: row.run })} columns=${what === "results" ? RESULTS : EVENTS}
      empty=${html`<${Empty} title=${paused ? "Paused." : `Waiting for ${what}…`}>
        <p>${types.length || handlers.length || kinds.length || filter ? "Only what matches the filter arrives here." : html`<a href=${link("/publish")}>Publish an event</a>, or from a terminal: <code>busway publish order.created item=book</code>`}</p>
      <//>`} />
    ${feed.left > 0 && html`<p class="dim">${number(feed.left)} older ones arrived and are not shown. <a href=${link("/events")}>All events</a></p>`}
  <//>`;
}

const RESULTS = [
  { name: "Time", cell: (row) => html`<${Clock} at=${row.time} />` },
  { name: "Kind", cell: (row) => html`<${State} state=${row.kind} />` },
  { name: "Type", cell: (row) => html`<${Name} text=${row.type} most=${60} />` },
  { name: "Handler", cell: (row) => html`<${Name} text=${row.handler} />` },
  { name: "Completes", kind: "extra", cell: (row) => row.completes && html`<span title="Everything that the root event caused is finished">yes</span>` },
  { name: "Event", kind: "num extra", cell: (row) => row.seq },
  { name: "Attempt", kind: "num extra", cell: (row) => row.attempt },
  { name: "Value", kind: "grow", cell: (row) => html`<code class="line">${row.value}</code>` },
];
const EVENTS = [
  { name: "Time", cell: (row) => html`<${Clock} at=${row.time} />` },
  { name: "Event", kind: "num", cell: (row) => row.seq },
  { name: "Type", cell: (row) => html`<${Name} text=${row.type} most=${60} />` },
  { name: "Source", kind: "wide", cell: (row) => html`<${Name} text=${row.source} most=${40} />` },
  { name: "Subject", kind: "wide", cell: (row) => html`<${Name} text=${row.subject} most=${40} />` },
  { name: "Data", kind: "grow", cell: (row) => html`<code class="line">${row.value}</code>` },
];

// Only the beginning of a value is kept: a thousand values of a megabyte would fill the browser's memory.
function resultRow(item) {
  const value = item.error ? `${item.error.type}: ${item.error.message}` : item.data_base64 === undefined ? item.data : item.data_base64;
  return {
    id: item.cursor, time: item.time, kind: item.kind, type: item.event.type, seq: item.event.seq, run: item.run,
    handler: item.handler, attempt: item.attempt, completes: item.completes !== null,
    value: item.error ? preview(value).slice(1, -1) : preview(value),
  }; // prettier-ignore
}

function eventRow(event) {
  return { id: event.seq, seq: event.seq, run: null, time: event.time, type: event.type, source: event.source, subject: event.subject ?? "", value: preview(event.data ?? event.data_base64 ?? null) };
}

/** Rows that arrive, drawn a few times a second however many there are. */
function useFeed() {
  const kept = useRef({ rows: [], total: 0, arrived: 0, drawn: false });
  const [, draw] = useState(0);
  useEffect(() => {
    let before = { at: performance.now(), arrived: kept.current.arrived };
    let drawnAt = 0;
    const timer = setInterval(() => {
      const { arrived } = kept.current;
      const at = performance.now();
      const rateBefore = kept.current.rate ?? 0;
      if (arrived < before.arrived) before = { at, arrived }; // it was cleared
      if (at - before.at >= 1000) {
        kept.current.rate = ((arrived - before.arrived) / (at - before.at)) * 1000;
        before = { at, arrived };
      }
      if (document.hidden || (kept.current.drawn && kept.current.rate === rateBefore)) return;
      if (kept.current.rate > FAST && at - drawnAt < 1000) return;
      drawnAt = at;
      kept.current.drawn = true;
      draw((n) => n + 1);
    }, DRAW_EVERY);
    return () => clearInterval(timer);
  }, []);
  return useMemo(
    () => ({
      add(row, counts = true) {
        const { rows } = kept.current;
        rows.push(row);
        if (rows.length > 2 * KEPT) rows.splice(0, rows.length - KEPT);
        kept.current.total += 1;
        if (counts) kept.current.arrived += 1;
        kept.current.drawn = false;
      },
      clear() {
        kept.current = { rows: [], total: 0, arrived: 0, drawn: true };
        draw((n) => n + 1);
      },
      get rows() {
        return kept.current.rows.slice(-SHOWN).reverse();
      },
      get left() {
        return kept.current.total - Math.min(SHOWN, kept.current.rows.length);
      },
      get rate() {
        return kept.current.rate ?? 0;
      },
    }),
    [],
  );
}

/** Add new events to the feed, from now on. */
function useEvents(on, type, feed) {
  const last = useRef(null);
  useEffect(() => {
    last.current = null;
  }, [type]);
  useEffect(() => {
    if (!on) return undefined;
    let ended = false;
    let timer = null;
    const look = async () => {
      try {
        const first = last.current === null;
        let page = await get(withQuery("v1/events", { type, limit: SHOWN }));
        const items = [...page.items];
        while (!first && page.next && items.at(-1)?.seq > last.current && items.length < KEPT && !ended) {
          page = await get(withQuery("v1/events", { type, limit: SHOWN, after: page.next }));
          items.push(...page.items);
        }
        if (ended) return;
        const fresh = items.filter((event) => first || event.seq > last.current);
        for (const event of fresh.reverse()) feed.add(eventRow(event));
        last.current = Math.max(last.current ?? 0, items[0]?.seq ?? 0);
      } catch {
        if (session.get().needed) return;
      }
      if (!ended) timer = setTimeout(look, POLL_EVERY);
    };
    look();
    return () => {
      ended = true;
      clearTimeout(timer);
    };
  }, [on, type]);
}

function Filters({ what, types, handlers, kinds, filter, error }) {
  const apply = (event) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget);
    change({ types: words(form.get("types")), handlers: words(form.get("handlers") ?? ""), filter: (form.get("filter") ?? "").trim() });
  };
  const kind = (name) => change({ kinds: kinds.includes(name) ? kinds.filter((each) => each !== name) : [...kinds, name] });
  return html`<form class="filters" onSubmit=${apply}>
    <div class="tabs" role="group" aria-label="What is shown">
      ${["results", "events"].map((name) => html`<button type="button" aria-pressed=${what === name} onClick=${() => change({ show: name === "events" ? name : null, kinds: null, handlers: null, filter: null })}>${name === "results" ? "Results" : "Events"}</button>`)}
    </div>
    <${Field} label=${what === "results" ? "Types" : "Type"}><input type="search" name="types" defaultValue=${types.join(" ")} placeholder="order.* invoice.**" spellcheck="false" /><//>
    ${what === "results" && html`
      <${Field} label="Handlers"><input type="search" name="handlers" defaultValue=${handlers.join(" ")} placeholder="all" spellcheck="false" /><//>
      <${Field} label="Filter"><input type="search" name="filter" defaultValue=${filter} placeholder='{"exact": {"subject": "x"}}' spellcheck="false" /><//>
    `}
    <button>Apply</button>
    ${what === "results" && html`<div class="chips" role="group" aria-label="Kinds of result">
      ${KINDS.map((name) => html`<button type="button" class="chip" aria-pressed=${kinds.includes(name)} onClick=${() => kind(name)}>${name}</button>`)}
    </div>`}
    ${error && html`<p class="hint bad" role="alert">${error}</p>`}
  </form>`;
}

function parse(text) {
  if (!text) return { value: null };
  try {
    return { value: JSON.parse(text) };
  } catch {
    return { value: null, error: 'The filter must be JSON, such as {"exact": {"subject": "x"}}.' };
  }
}
