// The Busway client for web pages and for Node 22 or newer: one file, no dependencies.
//
//   import { Busway } from "/client.js";
//   const busway = new Busway();                       // the gateway that served the page
//   await busway.publish("order.created", { n: 7 });
//   for await (const item of busway.subscribe({ types: ["order.*"] })) console.log(item.kind, item.data);
//
// After a lost connection the client reconnects, and each subscription resumes after its last item, without
// gaps and without duplicates. If results were deleted meanwhile, the subscription ends with a `Gap`.

const FIRST_DELAY = 100; // ms between reconnects, doubled up to LAST_DELAY
const LAST_DELAY = 10_000;
const PING_EVERY = 20_000; // ms; a connection that received nothing since the last ping is closed
const MOST_WAITING = 10_000; // items; a subscription with more unread items pauses
const ACK_EVERY = 1_000; // ms
const REMEMBERED = 10_000; // cursors of a durable subscription kept to drop duplicates
const FATAL = new Set([1008, 4400, 4401]);

/** The gateway refused a request or cannot be reached. `code` is the error code, the close code or the HTTP status. */
export class BuswayError extends Error {
  constructor(detail, code = null) {
    super(detail);
    this.name = "BuswayError";
    this.code = code;
  }
}

/** Results after the cursor were deleted. `cursor` is the newest cursor, `oldest` the oldest available one. */
export class Gap extends BuswayError {
  constructor(cursor, oldest) {
    super("the results after this cursor were deleted: subscribe again after 'earliest' or 'latest'", "gap");
    this.name = "Gap";
    this.cursor = cursor;
    this.oldest = oldest;
  }
}

/**
 * A connection to a gateway. It opens with the first publish or subscription and stays open until `close()`.
 *
 * Options: `key`, an API key; or `ticket`, an async function that returns a new ticket for each connection (from
 * your own server, so that the page has no key). A gateway without API keys needs neither. `onstatus` is called
 * with `{connected, reason}` when the connection opens or closes. `parse` reads the JSON of each frame in place of
 * `JSON.parse`, for example to keep numbers that JavaScript rounds.
 */
export class Busway {
  #address;
  #http;
  #options;
  #socket = null;
  #connecting = false;
  #closed = false;
  #delay = FIRST_DELAY;
  #refusals = 0;
  #timer = null;
  #pinger = null;
  #active = true;
  #next = 1;
  #subscriptions = new Map(); // by their id on this connection
  #publishing = new Map(); // by ref
  #wake = () => this.#online();

  constructor(url = globalThis.location?.origin, options = {}) {
    const address = new URL(url);
    if (address.protocol !== "http:" && address.protocol !== "https:") {
      throw new TypeError(`url must be like http://127.0.0.1:8000, not ${url}`);
    }
    this.#http = address.href.replace(/\/+$/, "");
    this.#address = this.#http.replace(/^http/, "ws") + "/v1/subscribe";
    this.#options = options;
    globalThis.addEventListener?.("online", this.#wake);
  }

  /**
   * Publish an event. Resolves with its receipt when it is synced to disk. `attributes` are CloudEvents
   * attributes (`id`, `subject`, `partitionkey`, …). If the connection is lost before the answer, the client sends
   * the event again. Its id prevents duplicates.
   */
  publish(type, data = null, attributes = {}) {
    if (this.#closed) return Promise.reject(new BuswayError("this client is closed"));
    const event = { id: unique(), ...attributes, type, data };
    return new Promise((resolve, reject) => {
      const ref = `p${this.#next++}`;
      this.#publishing.set(ref, { text: JSON.stringify({ op: "publish", ref, event }), resolve, reject });
      if (this.#open) this.#socket.send(this.#publishing.get(ref).text);
      else this.#connect();
    });
  }

  /**
   * Subscribe to results: `{types, handlers, kinds, filter, correlationid, after, durable, shadow}`, all optional.
   * `after` is "latest" (the default), "earliest" or a cursor. Returns a subscription to iterate with `for await`,
   * or calls `callback` with each item. `subscription.close()` ends it.
   */
  subscribe(wanted = {}, callback = null) {
    if (this.#closed) throw new BuswayError("this client is closed");
    const subscription = new Subscription(wanted, {
      begin: (one) => this.#begin(one),
      stop: (one) => this.#stop(one),
      send: (frame) => this.#open && this.#socket.send(JSON.stringify(frame)),
    });
    this.#begin(subscription);
    if (callback) subscription._call(callback);
    return subscription;
  }

  /** Close all subscriptions and the connection. Publishes without an answer are rejected. */
  close() {
    this.#closed = true;
    globalThis.removeEventListener?.("online", this.#wake);
    clearTimeout(this.#timer);
    for (const subscription of [...this.#subscriptions.values()]) subscription.close();
    this.#rejectAll(new BuswayError("this client is closed: it is unknown whether the event was stored"));
    this.#drop(1000);
  }

  get #open() {
    return this.#socket?.readyState === 1;
  }

  #begin(subscription) {
    subscription._id = `s${this.#next++}`; // never reused: identifies frames of earlier subscriptions
    this.#subscriptions.set(subscription._id, subscription);
    if (this.#open) this.#socket.send(subscription._request());
    else this.#connect();
  }

  #stop(subscription) {
    if (!this.#subscriptions.delete(subscription._id)) return;
    if (this.#open) this.#socket.send(JSON.stringify({ op: "unsubscribe", id: subscription._id }));
  }

  async #connect() {
    if (this.#connecting || this.#socket || this.#closed || this.#timer) return;
    this.#connecting = true;
    try {
      const ticket = await this.#ticket();
      if (!this.#closed) this.#dial(ticket ? `${this.#address}?ticket=${encodeURIComponent(ticket)}` : this.#address);
    } catch (problem) {
      if (problem instanceof BuswayError) this.#fail(problem);
      else this.#again(`cannot get a ticket: ${problem.message}`);
    } finally {
      this.#connecting = false;
    }
  }

  /** A ticket, or null if none is needed. Throws a BuswayError only if a retry would not help. */
  async #ticket() {
    const { key, ticket } = this.#options;
    if (ticket) return ticket();
    if (!key) return null;
    const headers = { Authorization: `Bearer ${key}` };
    const answer = await fetch(`${this.#http}/v1/tickets`, { method: "POST", headers, cache: "no-store" });
    if (answer.ok) return (await answer.json()).ticket;
    if (answer.status === 404) return null; // an older gateway without tickets
    const problem = await answer.json().catch(() => ({}));
    const detail = problem.detail ?? `the gateway answered ${answer.status}`;
    if (answer.status >= 500 || answer.status === 429) throw new Error(detail);
    throw new BuswayError(detail, answer.status);
  }

  #dial(address) {
    const socket = (this.#socket = new WebSocket(address, "busway.v1"));
    socket.onopen = () => this.#opened();
    socket.onmessage = (message) => socket === this.#socket && this.#take((this.#options.parse ?? JSON.parse)(message.data));
    socket.onclose = (closed) => socket === this.#socket && this.#lost(closed.code, closed.reason);
  }

  #opened() {
    this.#active = true;
    this.#pinger = setInterval(() => this.#ping(), PING_EVERY);
    for (const subscription of this.#subscriptions.values()) this.#socket.send(subscription._request());
    for (const publish of this.#publishing.values()) this.#socket.send(publish.text);
    this.#options.onstatus?.({ connected: true, reason: "" });
  }

  #ping() {
    if (!this.#active) {
      this.#drop(1000);
      return this.#again("the gateway does not answer");
    }
    this.#active = false;
    if (this.#open) this.#socket.send('{"op":"ping"}');
  }

  #take(frame) {
    this.#active = true;
    const subscription = this.#subscriptions.get(frame.id);
    if (frame.op === "published") return this.#answered(frame.ref)?.resolve(receipt(frame));
    if (frame.op === "error" && frame.ref !== null) {
      if (frame.code === "unavailable") return this.#repeat(frame.ref); // may be stored
      return this.#answered(frame.ref)?.reject(new BuswayError(frame.detail, frame.code));
    }
    if (!subscription) return undefined;
    if (frame.op === "error") return this.#refused(subscription, frame);
    if (frame.op === "subscribed") this.#settle();
    return subscription._take(frame);
  }

  #repeat(ref) {
    const repeat = () => this.#open && this.#publishing.has(ref) && this.#socket.send(this.#publishing.get(ref).text);
    setTimeout(repeat, 500 + Math.random() * 500);
  }

  #settle() {
    this.#delay = FIRST_DELAY;
    this.#refusals = 0;
  }

  #answered(ref) {
    const publish = this.#publishing.get(ref);
    this.#publishing.delete(ref);
    this.#settle();
    return publish;
  }

  #refused(subscription, { code, detail }) {
    // Subscribing again returns the current bounds of the log, or works again.
    if (code === "unavailable" || (code === "bad_cursor" && subscription._began)) return this.#lost(1013, detail);
    this.#subscriptions.delete(subscription._id);
    return subscription._end(new BuswayError(detail, code));
  }

  #lost(code, reason) {
    this.#drop(1000);
    if (code === 1009) this.#rejectAll(new BuswayError("an event is larger than the gateway's limit", code));
    // A ticket may have expired during the handshake: only a second refusal is final.
    const once = code === 4401 && (this.#options.key || this.#options.ticket) && this.#refusals++ === 0;
    if (FATAL.has(code) && !once) this.#fail(new BuswayError(reason || `closed with ${code}`, code));
    else this.#again(reason || "connection lost");
  }

  #again(reason) {
    if (this.#closed) return;
    this.#options.onstatus?.({ connected: false, reason });
    if (!this.#subscriptions.size && !this.#publishing.size) return;
    const pause = this.#delay * (0.5 + Math.random() / 2);
    this.#delay = Math.min(this.#delay * 2, LAST_DELAY);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#online(), pause);
  }

  #online() {
    clearTimeout(this.#timer);
    this.#timer = null;
    if (this.#subscriptions.size || this.#publishing.size) this.#connect();
  }

  #fail(problem) {
    this.#options.onstatus?.({ connected: false, reason: problem.message });
    for (const subscription of [...this.#subscriptions.values()]) subscription._end(problem);
    this.#subscriptions.clear();
    this.#rejectAll(problem);
  }

  #rejectAll(problem) {
    for (const publish of this.#publishing.values()) publish.reject(problem);
    this.#publishing.clear();
  }

  #drop(code) {
    clearInterval(this.#pinger);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close(code);
  }
}

/** An async iterator of items. To resume later, subscribe with `cursor` as `after`. */
class Subscription {
  cursor = null; // of the last processed item: requesting the next item marks one as processed
  _id = null;
  _began = false;
  #wanted;
  #connection;
  #received = null; // cursor of the last received frame
  #waiting = [];
  #given = null;
  #wish = null;
  #ended = false;
  #problem = null;
  #paused = false;
  #acknowledged = null;
  #acknowledgedAt = 0;
  #seen = new Set();

  constructor(wanted, connection) {
    this.#wanted = wanted;
    this.#connection = connection;
  }

  /** Close the subscription. Iteration ends. */
  close() {
    if (this.#ended) return;
    this.#acknowledge(0);
    this.#connection.stop(this);
    this._end(null);
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  /** The next item. The previous one counts as processed. */
  next() {
    this.#processed();
    if (this.#waiting.length) return Promise.resolve({ value: this.#give(), done: false });
    if (this.#problem) return Promise.reject(this.#problem);
    if (this.#ended) return Promise.resolve({ value: undefined, done: true });
    return new Promise((resolve, reject) => (this.#wish = { resolve, reject }));
  }

  /** Called by `break` in a `for await`. */
  async return(value) {
    this.close();
    return { value, done: true };
  }

  async _call(callback) {
    try {
      for await (const item of this) await callback(item);
    } catch (problem) {
      if (!this.#wanted.onerror) throw problem; // becomes an unhandled rejection, so that it is visible
      this.#wanted.onerror(problem);
    }
  }

  _request() {
    const { onerror, ...wanted } = this.#wanted;
    const after = this.#received ?? wanted.after ?? null;
    return JSON.stringify({ op: "subscribe", ...wanted, id: this._id, after });
  }

  _take(frame) {
    if (frame.op === "subscribed") {
      if (!frame.recovered) {
        this.#connection.stop(this);
        return this._end(new Gap(frame.cursor, frame.oldest));
      }
      this._began = true;
      this.#received = this.#wanted.durable ? (this.#received ?? frame.cursor) : frame.cursor;
      this.cursor ??= frame.cursor;
    } else if (frame.op === "results") {
      for (const item of frame.items) if (this.#fresh(item)) this.#waiting.push({ item, cursor: item.cursor });
      this.#received = frame.cursor;
      if (frame.items.length === 0 || frame.items.at(-1).cursor !== frame.cursor) {
        // No item: the cursor moves here when all earlier items are processed.
        this.#waiting.push({ item: null, cursor: frame.cursor });
      }
      this.#flow();
    }
    return undefined;
  }

  _end(problem) {
    this.#ended = true;
    this.#problem = problem;
    const wish = this.#wish;
    this.#wish = null;
    if (!wish) return;
    if (problem) wish.reject(problem);
    else wish.resolve({ value: undefined, done: true });
  }

  /** Detects duplicates by cursor: the gateway decides where a durable subscription resumes. */
  #fresh(item) {
    if (!this.#wanted.durable) return true;
    if (this.#seen.has(item.cursor)) return false;
    this.#seen.add(item.cursor);
    if (this.#seen.size > REMEMBERED) this.#seen.delete(this.#seen.values().next().value);
    return true;
  }

  #flow() {
    this.#pass();
    if (this.#wish && this.#waiting.length) {
      const wish = this.#wish;
      this.#wish = null;
      wish.resolve({ value: this.#give(), done: false });
    }
    if (this.#waiting.length > MOST_WAITING && !this.#paused) {
      this.#paused = true; // subscribes again when these items are read
      this.#connection.stop(this);
    }
  }

  /** Move past cursors without an item, if all earlier items are processed. */
  #pass() {
    while (this.#waiting.length && this.#waiting[0].item === null && this.#given === null) {
      this.cursor = this.#waiting.shift().cursor;
      this.#acknowledge(ACK_EVERY);
    }
  }

  #give() {
    const { item } = this.#waiting.shift();
    this.#given = item.cursor;
    return item;
  }

  #processed() {
    if (this.#given !== null) {
      this.cursor = this.#given;
      this.#given = null;
      this.#pass();
      this.#acknowledge(this.#waiting.length ? ACK_EVERY : 0);
    }
    if (this.#paused && !this.#waiting.length && !this.#ended) {
      this.#paused = false;
      this.#connection.begin(this);
    }
  }

  #acknowledge(every) {
    if (!this.#wanted.durable || this.cursor === this.#acknowledged) return;
    if (Date.now() - this.#acknowledgedAt < every) return;
    if (this.#connection.send({ op: "ack", id: this._id, cursor: this.cursor }) === false) return;
    this.#acknowledged = this.cursor;
    this.#acknowledgedAt = Date.now();
  }
}

function receipt({ op, ref, ...fields }) {
  return fields;
}

/** An id for an event. crypto.randomUUID exists only on https pages and on localhost. */
function unique() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
