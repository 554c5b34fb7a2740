// Results as they come, over the WebSocket of the public client.

import { address, session } from "./api.js";
import { store, useEffect, useRef } from "./lib.js";
import { parse } from "./text.js";
import { Busway, Gap } from "../../client.js";

/** Whether the stream is open: null before the first use. */
export const stream = store({ connected: null, reason: "" });

let client = null;
let users = 0;
let closing = null;

function open() {
  clearTimeout(closing);
  users += 1;
  client ??= new Busway(address(".").href, { parse, onstatus: (told) => stream.set(told) });
  return client;
}

function leave() {
  users -= 1;
  clearTimeout(closing);
  // Between two pages nobody uses it for a moment.
  closing = setTimeout(() => {
    if (users) return;
    client?.close();
    client = null;
    stream.set({ connected: null, reason: "" });
  }, 1000);
}

/**
 * Call `take` with each result that `wanted` selects, as in `subscribe` of the client. After a lost connection it goes
 * on at the last cursor. `wanted` of null subscribes to nothing. `onproblem` gets what ends the subscription.
 */
export function useResults(wanted, take, onproblem) {
  const newest = useRef(null);
  newest.current = { take, onproblem };
  const text = wanted === null ? null : JSON.stringify(wanted);
  useEffect(() => {
    if (text === null) return undefined;
    const busway = open();
    let subscription = null;
    let ended = false;
    const begin = (after) => {
      const asked = { ...JSON.parse(text), ...after };
      const onerror = (problem) => {
        if (ended) return;
        newest.current.onproblem?.(problem);
        if (problem instanceof Gap) begin({ after: "latest" });
        else if (problem.code === 4401 || problem.code === 401) session.set({ ...session.get(), needed: true, signedIn: false });
      };
      subscription = busway.subscribe({ ...asked, onerror }, (item) => newest.current.take(item));
    };
    begin({});
    return () => {
      ended = true;
      subscription.close();
      leave();
    };
  }, [text]);
}

