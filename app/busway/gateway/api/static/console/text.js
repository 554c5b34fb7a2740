// Everything that events bring is hostile: it is shown as text, in bounds, and never reorders its surroundings.

const ODD = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** A text with its invisible characters as escapes: control characters, and those that change the direction. */
export function plain(text) {
  return String(text).replace(ODD, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

const LONG = /\d{16}/; // what has no number of so many digits is read without looking at each

/** Parse JSON. Whole numbers that JavaScript would round keep their digits: `JSON.stringify` writes them as they came. */
export function parse(text) {
  if (!JSON.rawJSON || !LONG.test(text)) return JSON.parse(text);
  return JSON.parse(text, (_, value, { source }) => (typeof value === "number" && /^-?\d{16,}$/.test(source) && !Number.isSafeInteger(value) ? JSON.rawJSON(source) : value));
}

/** Whether a value is a number that `parse` kept as it came. */
export const isRaw = (value) => Boolean(JSON.isRawJSON?.(value));

/** A text of at most so many characters. */
export function cut(text, most) {
  return text.length > most ? `${text.slice(0, most)}…` : text;
}

/** The beginning of a value as JSON. It looks at no more of the value than it returns. */
export function preview(value, most = 160) {
  let text = "";
  const put = (part) => {
    text += part;
    return text.length < most;
  };
  const write = (each, depth) => {
    if (typeof each === "string") return put(JSON.stringify(each.slice(0, most)));
    if (each === null || typeof each !== "object") return put(String(each));
    if (isRaw(each)) return put(each.rawJSON);
    if (depth > 6) return put("…");
    const list = Array.isArray(each);
    if (!put(list ? "[" : "{")) return false;
    let first = true;
    for (const name in each) {
      if (!first && !put(", ")) return false;
      first = false;
      if (!list && !put(`${JSON.stringify(name.slice(0, most))}: `)) return false;
      if (!write(each[name], depth + 1)) return false;
    }
    return put(list ? "]" : "}");
  };
  write(value, 0);
  return plain(cut(text, most));
}

export const number = (value, digits = 0) =>
  value === null || value === undefined || Number.isNaN(value)
    ? "–"
    : value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: 0 });

/** A rate, with as many digits as it deserves. */
export const rate = (value) => number(value, value !== null && value < 10 ? 1 : 0);

/** Seconds as text: 3 ms, 1.2 s, 4 min, 3 h. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.001) return seconds <= 0 ? "0" : "<1 ms";
  if (seconds < 1) return `${number(seconds * 1000, seconds < 0.01 ? 1 : 0)} ms`;
  if (seconds < 60) return `${number(seconds, seconds < 10 ? 1 : 0)} s`;
  if (seconds < 3600) return `${number(Math.floor(seconds / 60))} min`;
  if (seconds < 86_400) return `${number(seconds / 3600, 1)} h`;
  return `${number(seconds / 86_400, 1)} d`;
}

export function bytes(count) {
  if (count === null || count === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  for (; count >= 1024 && at < units.length - 1; at += 1) count /= 1024;
  return `${number(count, count < 10 && at > 0 ? 1 : 0)} ${units[at]}`;
}

/** How long ago a time was, or how far ahead it is. */
export function ago(time, now = Date.now()) {
  const seconds = (now - Date.parse(time)) / 1000;
  if (Math.abs(seconds) < 1) return "now";
  const text = duration(Math.round(Math.abs(seconds)));
  return seconds > 0 ? `${text} ago` : `in ${text}`;
}

export const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;
