// Requests to the public API. Nothing else of the gateway is used.

import { store, useEffect, useRef, useState } from "./lib.js";
import { parse } from "./text.js";

/** The gateway refused a request. `status` is the HTTP status, `errors` the invalid fields. */
export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail ?? problem.title ?? `the gateway answered ${status}`);
    this.name = "Refused";
    this.status = status;
    this.errors = problem.errors ?? [];
  }
}

/** The gateway cannot be reached. */
export class Unreachable extends Error {
  constructor() {
    super("The gateway does not answer. This page tries again by itself.");
    this.name = "Unreachable";
    this.status = 0;
    this.errors = [];
  }
}

/** `online`, and `visit`, which counts how often the gateway came back: what is shown is then loaded again. */
export const connection = store({ online: true, visit: 0 });

/** How this page is admitted: `needed` while it must sign in. `name` and `scopes` are those of its key. */
export const session = store({ needed: false, signedIn: false, name: null, scopes: [] });

/** Whether this page may do what needs a scope. */
export function may(scope) {
  const { signedIn, scopes } = session.get();
  return !signedIn || scopes.includes(scope) || scopes.includes("admin");
}

const PROBE_EVERY = 1000; // ms
const QUIET = 4000; // ms without a request after which the gateway is asked whether it is there
const PAGE = 1000;

export const address = (path) => new URL(path, document.baseURI);

/** The gateway's address, as programs use it. */
export const base = () => address(".").href.replace(/\/$/, "");

let closing = false;

/** Do what closes the gateway and signs in. What else this page asks meanwhile is refused: that ends nothing. */
export async function closed(act) {
  closing = true;
  try {
    return await act();
  } finally {
    closing = false;
  }
}

/** Send a request. Returns the decoded answer, null if it has no body. Throws `Refused` or `Unreachable`. */
export async function request(method, path, { body, headers = {}, signal } = {}) {
  const sent = { Accept: "application/json", ...headers };
  if (body !== undefined) sent["Content-Type"] = "application/json";
  if (method !== "GET") sent["X-Busway-CSRF"] = "1"; // pages of other origins cannot send it
  let answer;
  asked = Date.now();
  try {
    const text = body === undefined ? undefined : JSON.stringify(body);
    answer = await fetch(address(path), { method, headers: sent, body: text, signal, cache: "no-store" });
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    lost();
    throw new Unreachable();
  }
  if (answer.ok) return read(answer);
  const problem = await read(answer).catch(() => null);
  if (answer.status === 401 && !closing && method + path !== "POSTv1/session") {
    session.set({ ...session.get(), needed: true, signedIn: false });
  }
  throw new Refused(answer.status, problem ?? {});
}

async function read(answer) {
  const type = answer.headers.get("Content-Type") ?? "";
  const text = await answer.text();
  if (type.includes("json")) return parse(text);
  return text === "" ? null : text;
}

export const get = (path, options) => request("GET", path, options);
export const post = (path, body, options) => request("POST", path, { ...options, body });
export const patch = (path, body) => request("PATCH", path, { body });
export const remove = (path) => request("DELETE", path);

/** A path with its query. Empty values are left out, lists are repeated. */
export function query(path, parameters) {
  const pairs = [];
  for (const [name, value] of Object.entries(parameters)) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each === null || each === undefined || each === "" || each === false) continue;
      pairs.push(`${name}=${encodeURIComponent(each)}`);
    }
  }
  return pairs.length ? `${path}${path.includes("?") ? "&" : "?"}${pairs.join("&")}` : path;
}

/** All items of a list, page by page, at most `most`. `more` says whether there are others. */
export async function all(path, { most = PAGE, signal } = {}) {
  const items = [];
  let after = null;
  do {
    const page = await get(query(path, { limit: Math.min(PAGE, most - items.length), after }), { signal });
    items.push(...page.items);
    after = page.next;
  } while (after !== null && items.length < most);
  return { items, more: after !== null };
}

let asked = Date.now();
let probing = false;

// A page that loads nothing again would not notice that the gateway is gone.
setInterval(() => {
  if (document.hidden || probing || Date.now() - asked < QUIET) return;
  asked = Date.now();
  fetch(address("healthz"), { cache: "no-store" }).catch(lost);
}, QUIET / 2);

/** Remember that the gateway is gone, and wait for it. */
export function lost() {
  if (connection.get().online) connection.set({ ...connection.get(), online: false });
  if (!probing) probe();
}

async function probe() {
  probing = true;
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, PROBE_EVERY));
    try {
      if ((await fetch(address("readyz"), { cache: "no-store" })).ok) break;
    } catch {
      // Not yet.
    }
  }
  probing = false;
  connection.set({ online: true, visit: connection.get().visit + 1 });
}

/**
 * Load a path, again every so many milliseconds and when the gateway came back. A path of null loads nothing.
 * `load` replaces the request. While a page is hidden, it is loaded less often.
 */
export function useQuery(path, { every = 0, load = get } = {}) {
  const [state, setState] = useState({ path, data: null, error: null });
  const again = useRef(null);
  const { visit } = connection.use();
  useEffect(() => {
    if (path === null) return undefined;
    const ending = new AbortController();
    let timer = null;
    const look = async () => {
      clearTimeout(timer);
      try {
        const data = await load(path, { signal: ending.signal });
        if (ending.signal.aborted) return;
        setState({ path, data, error: null });
      } catch (error) {
        if (ending.signal.aborted) return;
        setState((old) => ({ path, data: old.path === path ? old.data : null, error }));
      }
      if (every) timer = setTimeout(look, document.hidden ? every * 5 : every);
    };
    again.current = look;
    look();
    return () => {
      ending.abort();
      clearTimeout(timer);
    };
  }, [path, every, visit]);
  const { data, error } = state.path === path ? state : { data: null, error: null };
  return { data, error, loading: path !== null && data === null && error === null, reload: () => again.current?.() };
}
