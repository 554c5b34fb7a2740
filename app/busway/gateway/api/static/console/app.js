// The shell: navigation, connection, theme, keyboard, and the page that the URL names.

import { connection, session } from "./api.js";
import { html, render, store, useEffect, useErrorBoundary, useState } from "./lib.js";
import { stream } from "./live.js";
import { PAGES } from "./pages.js";
import { go, link, match, place } from "./router.js";
import { begin, signIn, signOut } from "./session.js";
import { Dialog, Empty, Notices, Page, Question } from "./ui.js";
import { plain } from "./text.js";

const helping = store(false);
const menu = store(false);

// -- theme

const theme = store(document.documentElement.dataset.theme ?? "system");
const THEMES = { system: "light", light: "dark", dark: "system" };

function turn() {
  const next = THEMES[theme.get()];
  if (next === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem("busway.theme", next);
  } catch {
    // It holds for this page then.
  }
  theme.set(next);
  dispatchEvent(new Event("busway-theme"));
}

// -- keyboard

let before = null;

addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, textarea, select, dialog, [contenteditable]");
  if (event.ctrlKey || event.metaKey || event.altKey || session.get().needed) return;
  if (typing) {
    if (event.key === "Escape" && !event.target.closest("dialog")) event.target.blur();
    return;
  }
  const handled = press(event.key);
  if (handled) event.preventDefault();
});

function press(key) {
  const after = before;
  before = null;
  if (after === "g") {
    const page = PAGES.find((each) => each.key === key);
    if (page) go(page.path);
    return Boolean(page);
  }
  if (key === "g") before = "g";
  else if (key === "?") helping.set(true);
  else if (key === "t") turn();
  else if (key === "p") return click(document.querySelector("main header.page [data-action=pause]"));
  else if (key === "/") return focus(document.querySelector("main input[type=search], main input"));
  else if (key === "j" || key === "k") return move(key === "j" ? 1 : -1);
  else return false;
  return true;
}

function focus(element) {
  element?.focus();
  element?.select?.();
  return Boolean(element);
}

function click(element) {
  element?.click();
  return Boolean(element);
}

function move(step) {
  const rows = [...document.querySelectorAll("main [data-row]")];
  const at = rows.indexOf(document.activeElement);
  const next = at === -1 ? (step > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, at + step));
  rows[next]?.focus();
  return rows.length > 0;
}

function Help() {
  if (!helping.use()) return null;
  const keys = [
    ...PAGES.filter((page) => page.key).map((page) => [`g ${page.key}`, page.title]),
    ["j k", "next and previous row; Enter opens it"],
    ["/", "the first field of the page"],
    ["p", "pause and resume the page Live"],
    ["t", "light, dark, or as the system"],
    ["Esc", "leave a field, close a dialog"],
    ["?", "this help"],
  ];
  return html`<${Dialog} title="Keyboard" onClose=${() => helping.set(false)}>
    <dl class="keys">
      ${keys.map(([key, what]) => html`<div><dt>${key.split(" ").map((each) => html`<kbd>${each}</kbd>`)}</dt><dd>${what}</dd></div>`)}
    </dl>
  <//>`;
}

// -- navigation

function Navigation({ current }) {
  const open = menu.use();
  const chosen = theme.use();
  const { signedIn, name } = session.use();
  const groups = [...new Set(PAGES.filter((page) => page.group).map((page) => page.group))];
  return html`<nav class=${open ? "side open" : "side"} aria-label="Console">
    <a class="brand" href="#/"><img src="docs/static/favicon.svg" alt="" width="22" height="22" /> Busway</a>
    ${groups.map(
      (group) => html`<div class="group"><p class="dim" id=${`nav-${group}`}>${group}</p>
        <ul aria-labelledby=${`nav-${group}`}>
          ${PAGES.filter((page) => page.group === group).map(
            (page) => html`<li><a href=${link(page.path)} aria-current=${page.path === (current?.under ?? current?.path) ? "page" : undefined}>${page.title}</a></li>`,
          )}
        </ul></div>`,
    )}
    <div class="foot">
      <a href="docs">API documentation</a>
      <div class="buttons">
        <button type="button" class="quiet" onClick=${turn} title="Light, dark, or as the system (t)">Theme: ${chosen}</button>
        <button type="button" class="quiet" onClick=${() => helping.set(true)} title="Keyboard (?)">Keys</button>
        ${signedIn && html`<button type="button" class="quiet" title=${name ? `Signed in with the key ${plain(name)}` : ""} onClick=${signOut}>Sign out</button>`}
      </div>
    </div>
  </nav>`;
}

/** The bar that tells that the gateway, or the stream of results, is gone. */
function Connection() {
  const { online } = connection.use();
  const { connected, reason } = stream.use();
  if (!online) return html`<div class="bar bad" role="alert"><span class="state bad">offline</span> The gateway does not answer. What you see is from before. This page reconnects by itself.</div>`;
  if (connected === false) return html`<div class="bar warn" role="status"><span class="state warn">reconnecting</span> The stream of results was interrupted (${plain(reason)}). It resumes where it was, without a gap.</div>`;
  return null;
}

// -- views

function SignIn() {
  const [problem, setProblem] = useState(null);
  const [busy, setBusy] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    setBusy(true);
    setProblem(null);
    try {
      await signIn(new FormData(event.target).get("key").trim());
    } catch (error) {
      setProblem(error);
    } finally {
      setBusy(false);
    }
  };
  useEffect(() => {
    document.title = "Sign in · Busway";
  }, []);
  return html`<main id="main" class="signin">
    <form onSubmit=${submit}>
      <h1>Sign in</h1>
      <p>This gateway asks for an API key. You come back to the page that you wanted to see.</p>
      <label class="field"><span class="label">API key</span>
        <input name="key" type="password" autocomplete="current-password" placeholder="bw_…" required autofocus spellcheck="false" aria-describedby="key-hint" />
      </label>
      <p class="hint" id="key-hint">No key yet? On the gateway's machine: <code>busway keys create NAME --scope admin</code></p>
      ${problem && html`<div class="trouble" role="alert"><p>${plain(problem.message)}</p></div>`}
      <button class="primary" disabled=${busy}>Sign in</button>
    </form>
  </main>`;
}

function Missing({ path }) {
  return html`<${Page} title="Not found">
    <${Empty} title="The console has no such page.">
      <p><code>${plain(path)}</code></p>
      <p><a href="#/">Go to the overview</a></p>
    <//>
  <//>`;
}

/** The page of the URL. An error of one page does not end the console. */
function View({ found, path, query }) {
  const [error, reset] = useErrorBoundary();
  if (error) {
    console.error(error);
    return html`<${Page} title="This page failed">
      <div class="trouble" role="alert"><p>${plain(error.message)}</p></div>
      <p><button type="button" onClick=${reset}>Try again</button></p>
    <//>`;
  }
  if (!found) return html`<${Missing} path=${path} />`;
  return html`<${found.page.view} ...${found.parameters} query=${query} />`;
}

function App() {
  const { path, query } = place.use();
  const { needed } = session.use();
  const open = menu.use();
  const found = match(PAGES, path);
  useEffect(() => menu.set(false), [path]);
  if (needed) return html`<${SignIn} />`;
  return html`
    <a class="skip" href="#main" onClick=${(event) => event.preventDefault() || document.querySelector("h1")?.focus()}>Skip to the content</a>
    <header class="top">
      <button type="button" class="quiet" aria-expanded=${open} onClick=${() => menu.set(!open)}>Menu</button>
      <a class="brand" href="#/"><img src="docs/static/favicon.svg" alt="" width="20" height="20" /> Busway</a>
    </header>
    <${Navigation} current=${found?.page} />
    <div class="content">
      <${Connection} />
      <${View} key=${path} found=${found} path=${path} query=${query} />
    </div>
    <${Notices} /><${Question} /><${Help} />
  `;
}

begin();
render(html`<${App} />`, document.querySelector("#app"));
