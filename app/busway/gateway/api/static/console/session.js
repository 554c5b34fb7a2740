// Signing in and out. The key stays in the memory of this page.

import { get, session } from "./api.js";

/** Resolves when it is known whether this page is admitted already. */
export const begun = Promise.resolve();

/** Sign in with an API key. Throws if the gateway refuses it. */
export async function signIn(key) {
  session.set({ ...session.get(), key });
  try {
    await get("v1/events?limit=1");
  } catch (problem) {
    if (problem.status !== 403) throw problem; // a key that may not read events is a key
  }
  session.set({ ...session.get(), needed: false, signedIn: true });
}

/** Sign out: this page forgets the key. */
export async function signOut() {
  session.set({ needed: true, signedIn: false, name: null, csrf: null, key: null });
}
