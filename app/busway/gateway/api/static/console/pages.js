// The pages, in the order of the navigation. `README.md` tells how to add one.

import { Audit } from "./pages/audit.js";
import { Dead } from "./pages/dead.js";
import { Event } from "./pages/event.js";
import { Events } from "./pages/events.js";
import { Handler } from "./pages/handler.js";
import { Handlers } from "./pages/handlers.js";
import { Keys } from "./pages/keys.js";
import { Live } from "./pages/live.js";
import { Nodes } from "./pages/nodes.js";
import { Overview } from "./pages/overview.js";
import { Publish } from "./pages/publish.js";
import { Replay } from "./pages/replay.js";
import { Runs } from "./pages/runs.js";
import { Schedules } from "./pages/schedules.js";
import { Subscribers } from "./pages/subscribers.js";
import { Webhooks } from "./pages/webhooks.js";

/**
 * `path`: of the URL, `:name` is a parameter of the view. `view`: the component; it gets the parameters and `query`.
 * `group`: where the navigation lists it. `under`: the path of the page that the navigation marks instead.
 * `key`: `g` and this key open it.
 */
export const PAGES = [
  { path: "/", title: "Overview", group: "Watch", key: "o", view: Overview },
  { path: "/live", title: "Live", group: "Watch", key: "l", view: Live },
  { path: "/events", title: "Events", group: "Watch", key: "e", view: Events },
  { path: "/events/:seq", title: "Event", under: "/events", view: Event },
  { path: "/publish", title: "Publish", group: "Watch", key: "p", view: Publish },
  { path: "/handlers", title: "Handlers", group: "Work", key: "h", view: Handlers },
  { path: "/handlers/:name", title: "Handler", under: "/handlers", view: Handler },
  { path: "/replays/:id", title: "Replay", under: "/handlers", view: Replay },
  { path: "/runs", title: "Runs", group: "Work", key: "r", view: Runs },
  { path: "/dead", title: "Dead runs", group: "Work", key: "d", view: Dead },
  { path: "/schedules", title: "Schedules", group: "Work", key: "c", view: Schedules },
  { path: "/subscribers", title: "Subscribers", group: "Service", key: "s", view: Subscribers },
  { path: "/webhooks", title: "Webhooks", group: "Service", key: "w", view: Webhooks },
  { path: "/nodes", title: "Nodes", group: "Service", key: "n", view: Nodes },
  { path: "/keys", title: "Keys", group: "Service", key: "k", view: Keys },
  { path: "/audit", title: "Audit", group: "Service", key: "a", view: Audit },
];
