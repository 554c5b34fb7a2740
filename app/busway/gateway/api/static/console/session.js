// Signing in and out. The key is sent once; then a cookie that scripts cannot read admits this page.

import { get, post, remove, session } from "./api.js";

const NONE = { needed: false, signedIn: false, name: null, scopes: [] };

/** Find out who this page is to the gateway. Without API keys there is nothing to sign in to. */
export async function begin() {
  try {
    admitted(await get("v1/session"));
  } catch {
    // 401 shows the sign-in view; a gateway that does not answer is asked again by what the page loads.
  }
}

/** Sign in with an API key or a token. Throws if the gateway refuses it. */
export async function signIn(key) {
  admitted(await post("v1/session", { key }));
}

/** Sign out: the browser forgets the cookie. */
export async function signOut() {
  await remove("v1/session");
  session.set({ ...NONE, needed: true });
}

function admitted({ by, name, scopes }) {
  session.set({ ...NONE, signedIn: by !== "open", name, scopes });
}
