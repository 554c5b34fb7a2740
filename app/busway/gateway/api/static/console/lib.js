// The libraries, which classic scripts have loaded: as modules they would import one another by bare names.

const { preact, preactHooks, htm } = globalThis;

export const { createContext, Fragment, h, render } = preact;
export const { useContext, useEffect, useErrorBoundary, useLayoutEffect, useMemo, useRef, useState } = preactHooks;
export const html = htm.bind(h);
export const Plotter = globalThis.uPlot;

/** A value that components read with `use()` and that renders them again when it changes. */
export function store(value) {
  const readers = new Set();
  return {
    get: () => value,
    set(next) {
      if (Object.is(next, value)) return;
      value = next;
      for (const reader of [...readers]) reader();
    },
    listen(reader) {
      readers.add(reader);
      return () => readers.delete(reader);
    },
    use() {
      const [, again] = useState(0);
      useEffect(() => {
        const before = value;
        const reader = () => again((n) => n + 1);
        readers.add(reader);
        if (!Object.is(before, value)) reader();
        return () => readers.delete(reader);
      }, []);
      return value;
    },
  };
}
