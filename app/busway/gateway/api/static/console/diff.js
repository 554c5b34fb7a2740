// The lines that differ between two texts (Myers), with some lines around them.

const MOST = 800; // edits that are searched; texts that differ more are shown as one block each
const AROUND = 3;

/** All lines of both texts: `{kind, text, line}`, kind is "same", "removed" or "added", line that of the new text. */
export function lines(before, after) {
  const a = before.split("\n");
  const b = after.split("\n");
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start += 1;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a.at(-1 - end) === b.at(-1 - end)) end += 1;
  const [old, now] = [a.slice(start, a.length - end), b.slice(start, b.length - end)];
  const same = (part) => part.map((text) => ({ kind: "same", text }));
  const block = () => [...old.map((text) => ({ kind: "removed", text })), ...now.map((text) => ({ kind: "added", text }))];
  const found = [...same(b.slice(0, start)), ...(edits(old, now) ?? block()), ...same(b.slice(b.length - end))];
  let line = 0;
  for (const each of found) {
    if (each.kind !== "removed") line += 1;
    each.line = line;
  }
  return found;
}

/** Only the lines that differ, in groups with those around them. */
export function hunks(before, after) {
  const all = lines(before, after);
  const groups = [];
  let last = -Infinity;
  all.forEach((each, at) => {
    if (each.kind === "same") return;
    if (at - last > 2 * AROUND || !groups.length) groups.push([Math.max(0, at - AROUND), 0]);
    groups.at(-1)[1] = Math.min(all.length, at + AROUND + 1);
    last = at;
  });
  return groups.map(([from, to]) => all.slice(from, to));
}

function edits(a, b) {
  const most = Math.min(a.length + b.length, MOST);
  const middle = most + 1;
  const reached = new Int32Array(2 * most + 3); // by diagonal: how far in `a`
  const before = [];
  const next = (row, at, k, d) => (k === -d || (k !== d && row[at + k - 1] < row[at + k + 1]) ? k + 1 : k - 1);
  for (let d = 0; d <= most; d += 1) {
    before.push(reached.slice(middle - d - 1, middle + d + 2));
    for (let k = -d; k <= d; k += 2) {
      const from = next(reached, middle, k, d);
      let x = from > k ? reached[middle + from] : reached[middle + from] + 1;
      while (x < a.length && x - k < b.length && a[x] === b[x - k]) x += 1;
      reached[middle + k] = x;
      if (x >= a.length && x - k >= b.length) return path(a, b, before, next);
    }
  }
  return null;
}

function path(a, b, before, next) {
  const found = [];
  let [x, y] = [a.length, b.length];
  for (let d = before.length - 1; d >= 0; d -= 1) {
    const from = next(before[d], d + 1, x - y, d);
    const left = before[d][d + 1 + from];
    while (x > left && y > left - from) {
      found.push({ kind: "same", text: a[x - 1] });
      x -= 1;
      y -= 1;
    }
    if (d === 0) break;
    found.push(x === left ? { kind: "added", text: b[y - 1] } : { kind: "removed", text: a[x - 1] });
    [x, y] = [left, left - from];
  }
  return found.reverse();
}
