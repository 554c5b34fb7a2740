// One URL for each view: `#/events/41?run=7`. The part behind # is not sent to the gateway, so `/` serves all.

import { store } from "./lib.js";

export const place = store(read());

addEventListener("hashchange", () => place.set(read()));

function read() {
  const [path, search = ""] = (location.hash.slice(1) || "/").split("?");
  return { path, query: new URLSearchParams(search) };
}

/** The address of a view. Empty parameters are left out. */
export function link(path, parameters = {}) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== null && each !== undefined && each !== "" && each !== false) search.append(name, each);
    }
  }
  const text = search.toString();
  return `#${path}${text ? `?${text}` : ""}`;
}

export function go(path, parameters) {
  location.hash = link(path, parameters);
}

/** Change the parameters of this view, without another step to go back. */
export function change(parameters) {
  const { path, query } = place.get();
  const kept = Object.fromEntries([...new Set(query.keys())].map((name) => [name, query.getAll(name)]));
  history.replaceState(null, "", link(path, { ...kept, ...parameters }));
  place.set(read());
}

/** The page of a path, with the parameters that its pattern names: `/events/:seq`. */
export function match(pages, path) {
  for (const page of pages) {
    const names = [];
    const pattern = page.path.replace(/:([a-z]+)/g, (_, name) => names.push(name) && "([^/]+)");
    const found = new RegExp(`^${pattern}$`).exec(path);
    if (!found) continue;
    const values = names.map((name, at) => [name, decodeURIComponent(found[at + 1])]);
    return { page, parameters: Object.fromEntries(values) };
  }
  return null;
}
