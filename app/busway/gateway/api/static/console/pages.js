// The pages, in the order of the navigation. `README.md` tells how to add one.

import { Event } from "./pages/event.js";
import { Live } from "./pages/live.js";
import { Overview } from "./pages/overview.js";

/**
 * `path`: of the URL, `:name` is a parameter of the view. `view`: the component; it gets the parameters and `query`.
 * `group`: where the navigation lists it, none if it does not. `key`: `g` and this key open it.
 */
export const PAGES = [
  { path: "/", title: "Overview", group: "Watch", key: "o", view: Overview },
  { path: "/live", title: "Live", group: "Watch", key: "l", view: Live },
  { path: "/events/:seq", title: "Event", view: Event },
];
