// The client of a Busway gateway for pages (and for Node 22 or newer): one file, no dependencies.
//
//   import { Busway } from "/client.js";
//   const busway = new Busway();                       // the gateway that the page came from
//   await busway.publish("order.created", { n: 7 });
//   for await (const item of busway.subscribe({ types: ["order.*"] })) console.log(item.kind, item.data);
//
// When the connection breaks it is made again, and each subscription goes on behind the last item
// that came, without gap and without repeat. Where that cannot be kept, it ends with a `Gap`.

const FIRST_DELAY = 100; // ms between attempts to connect again, growing to the last
const LAST_DELAY = 10_000;
const PING_EVERY = 20_000; // ms; a connection on which nothing came since the last ping is given up
const MOST_WAITING = 10_000; // items; a subscription whose reader has more to take pauses
const ACK_EVERY = 1_000; // ms
const REMEMBERED = 10_000; // items of a durable subscription that are told from repeats
const FATAL = new Set([1008, 4400, 4401]);

/** What the gateway refused, or why it cannot be reached. `code` is that of the frame, the close or the answer. */
export class BuswayError extends Error {
  constructor(detail, code = null) {
    super(detail);
    this.name = "BuswayError";
    this.code = code;
  }
}

/** The place to go on from is no longer in the log. `cursor` is where the log is now, `oldest` the oldest place. */
export class Gap extends BuswayError {
  constructor(cursor, oldest) {
    super("results after that cursor are no longer kept: subscribe again after 'earliest' or 'latest'", "gap");
    this.name = "Gap";
    this.cursor = cursor;
    this.oldest = oldest;
  }
}

/**
 * A connection to a gateway. It opens with the first publish or subscription and lasts until `close()`.
 *
 * Options: `key`, or `ticket`, an async function that gives a fresh one-use ticket for each connection (from
 * your own server, so that no key is in the page); neither if the gateway is open. `onstatus` is called
 * with `{connected, reason}` when the connection is made or lost.
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
  #heard = true;
  #next = 1;
  #subscriptions = new Map(); // by their id on this connection
  #publishing = new Map(); // by ref
  #wake = () => this.#online();

  constructor(url = globalThis.location?.origin, options = {}) {
    const address = new URL(url);
    if (address.protocol !== "http:" && address.protocol !== "https:") {
      throw new TypeError(`the address of a gateway is like http://127.0.0.1:8000, not ${url}`);
    }
    this.#http = address.href.replace(/\/+$/, "");
    this.#address = this.#http.replace(/^http/, "ws") + "/v1/subscribe";
    this.#options = options;
    globalThis.addEventListener?.("online", this.#wake);
  }

  /**
   * Publish an event; resolves with its receipt once it is safe on disk. `attributes` are CloudEvents
   * attributes (`id`, `subject`, `partitionkey`, …). It is sent again over a new connection if the old one broke
   * before the answer: the id that it is given here makes it one event.
   */
  publish(type, data = null, attributes = {}) {
    if (this.#closed) return Promise.reject(new BuswayError("this client was closed"));
    const event = { id: unique(), ...attributes, type, data };
    return new Promise((resolve, reject) => {
      const ref = `p${this.#next++}`;
      this.#publishing.set(ref, { text: JSON.stringify({ op: "publish", ref, event }), resolve, reject });
      if (this.#open) this.#socket.send(this.#publishing.get(ref).text);
      else this.#connect();
    });
  }

  /**
   * Follow results: `{types, handlers, kinds, filter, correlationid, after, durable, shadow}`, all optional; `after` is
   * "latest" (as without it), "earliest" or a cursor. Returns a subscription to iterate with `for await`, or
   * calls `callback` with each item. `subscription.close()` ends it.
   */
  subscribe(wanted = {}, callback = null) {
    if (this.#closed) throw new BuswayError("this client was closed");
    const subscription = new Subscription(wanted, {
      begin: (one) => this.#begin(one),
      stop: (one) => this.#stop(one),
      say: (frame) => this.#open && this.#socket.send(JSON.stringify(frame)),
    });
    this.#begin(subscription);
    if (callback) subscription._call(callback);
    return subscription;
  }

  /** End all subscriptions and the connection. What was not answered yet is rejected. */
  close() {
    this.#closed = true;
    globalThis.removeEventListener?.("online", this.#wake);
    clearTimeout(this.#timer);
    for (const subscription of [...this.#subscriptions.values()]) subscription.close();
    this.#rejectAll(new BuswayError("this client was closed: whether the event was stored is unknown"));
    this.#drop(1000);
  }

  get #open() {
    return this.#socket?.readyState === 1;
  }

  #begin(subscription) {
    subscription._id = `s${this.#next++}`; // never used twice: frames of before are told by it
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
      else this.#again(`there is no ticket for a connection: ${problem.message}`);
    } finally {
      this.#connecting = false;
    }
  }

  /** A ticket, null if none is needed. Fails with a BuswayError only where there is no point in asking again. */
  async #ticket() {
    const { key, ticket } = this.#options;
    if (ticket) return ticket();
    if (!key) return null;
    const headers = { Authorization: `Bearer ${key}` };
    const answer = await fetch(`${this.#http}/v1/tickets`, { method: "POST", headers, cache: "no-store" });
    if (answer.ok) return (await answer.json()).ticket;
    if (answer.status === 404) return null; // an older gateway: it refuses the connection if it needs a key
    const problem = await answer.json().catch(() => ({}));
    const detail = problem.detail ?? `the gateway answered ${answer.status}`;
    if (answer.status >= 500 || answer.status === 429) throw new Error(detail);
    throw new BuswayError(detail, answer.status);
  }

  #dial(address) {
    const socket = (this.#socket = new WebSocket(address, "busway.v1"));
    socket.onopen = () => this.#opened();
    socket.onmessage = (message) => socket === this.#socket && this.#take(JSON.parse(message.data));
    socket.onclose = (closed) => socket === this.#socket && this.#lost(closed.code, closed.reason);
  }

  #opened() {
    this.#heard = true;
    this.#pinger = setInterval(() => this.#ping(), PING_EVERY);
    for (const subscription of this.#subscriptions.values()) this.#socket.send(subscription._request());
    for (const publish of this.#publishing.values()) this.#socket.send(publish.text);
    this.#options.onstatus?.({ connected: true, reason: "" });
  }

  #ping() {
    if (!this.#heard) {
      this.#drop(1000);
      return this.#again("nothing came from the gateway for a while");
    }
    this.#heard = false;
    if (this.#open) this.#socket.send('{"op":"ping"}');
  }

  #take(frame) {
    this.#heard = true;
    const subscription = this.#subscriptions.get(frame.id);
    if (frame.op === "published") return this.#answered(frame.ref)?.resolve(receipt(frame));
    if (frame.op === "error" && frame.ref !== null) {
      if (frame.code === "unavailable") return this.#repeat(frame.ref); // perhaps stored
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
    // Subscribing again says where the log is now, or that it can be read again.
    if (code === "unavailable" || (code === "bad_cursor" && subscription._began)) return this.#lost(1013, detail);
    this.#subscriptions.delete(subscription._id);
    return subscription._end(new BuswayError(detail, code));
  }

  #lost(code, reason) {
    this.#drop(1000);
    if (code === 1009) this.#rejectAll(new BuswayError("an event is larger than the gateway takes", code));
    // A ticket may have run out on the way; a second refusal is meant.
    const once = code === 4401 && (this.#options.key || this.#options.ticket) && this.#refusals++ === 0;
    if (FATAL.has(code) && !once) this.#fail(new BuswayError(reason || `closed with ${code}`, code));
    else this.#again(reason || "the connection is lost");
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

/** What `subscribe` returns: an async iterator of items. `cursor` is where to resume, as `after`. */
class Subscription {
  cursor = null; // behind the last item that was dealt with: one is once the next is asked for
  _id = null;
  _began = false;
  #wanted;
  #connection;
  #received = null; // behind the last item that came
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

  /** End it; whoever iterates sees the end. */
  close() {
    if (this.#ended) return;
    this.#acknowledge(0);
    this.#connection.stop(this);
    this._end(null);
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  /** The next item. One that was given before counts as dealt with. */
  next() {
    this.#dealtWith();
    if (this.#waiting.length) return Promise.resolve({ value: this.#give(), done: false });
    if (this.#problem) return Promise.reject(this.#problem);
    if (this.#ended) return Promise.resolve({ value: undefined, done: true });
    return new Promise((resolve, reject) => (this.#wish = { resolve, reject }));
  }

  /** What `break` in a `for await` calls. */
  async return(value) {
    this.close();
    return { value, done: true };
  }

  async _call(callback) {
    try {
      for await (const item of this) await callback(item);
    } catch (problem) {
      if (!this.#wanted.onerror) throw problem; // unhandled, so that it is seen
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
        // No item: a place to reach when all before it was dealt with.
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

  /** A durable subscription goes on where the gateway says: what came before is told by its cursor. */
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
      this.#paused = true; // the gateway keeps the rest; it is asked for when these are taken
      this.#connection.stop(this);
    }
  }

  /** Move past places without an item, if everything before them was dealt with. */
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

  #dealtWith() {
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
    if (this.#connection.say({ op: "ack", id: this._id, cursor: this.cursor }) === false) return;
    this.#acknowledged = this.cursor;
    this.#acknowledgedAt = Date.now();
  }
}

function receipt({ op, ref, ...fields }) {
  return fields;
}

/** An id for an event. crypto.randomUUID is there only for pages of https or this machine. */
function unique() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
