"use strict";

const dark = matchMedia("(prefers-color-scheme: dark)");
const theme = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", theme);
theme();

const STREAM_SECONDS = 3;

// Swagger UI shows an answer when it has ended, and a stream of events does not end.
async function fetchStream(url, request) {
  const ending = new AbortController();
  const answer = await fetch(url, { ...request, signal: ending.signal });
  const type = answer.headers.get("Content-Type") ?? "";
  if (!type.startsWith("text/event-stream")) return answer;
  setTimeout(() => ending.abort(), STREAM_SECONDS * 1000);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) text += part.value;
  } catch (problem) {
    if (problem.name !== "AbortError") throw problem;
  }
  const end = `: This page closed the stream after ${STREAM_SECONDS} seconds. Follow it with: curl -N '${url}'\n`;
  const { status, statusText, headers } = answer;
  return new Response(text + end, { status, statusText, headers });
}

// No script can set the cookie of a session, so a form that asks for it would be of no use.
const withoutSession = () => ({
  statePlugins: {
    spec: {
      wrapActions: {
        updateJsonSpec: (original) => (spec) => {
          const shown = structuredClone(spec);
          delete shown.components?.securitySchemes?.session;
          shown.security = shown.security?.filter((scheme) => !("session" in scheme));
          return original(shown);
        },
      },
    },
  },
});

const ui = SwaggerUIBundle({
  plugins: [withoutSession],
  url: "openapi.json",
  dom_id: "#operations",
  layout: "BaseLayout",
  deepLinking: true,
  tryItOutEnabled: true,
  persistAuthorization: true,
  displayRequestDuration: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  // The public validator would send this gateway's address to another host.
  validatorUrl: null,
  requestInterceptor(request) {
    if (new URL(request.url, location.href).pathname.endsWith("/v1/subscribe/sse")) request.userFetch = fetchStream;
    return request;
  },
  // As soon as there is a key, each request needs one: the page goes on with the first one that it created.
  responseInterceptor(answer) {
    const created = answer.status === 201 && new URL(answer.url, location.href).pathname.endsWith("/v1/keys");
    if (created && !ui.authSelectors.authorized().has("key")) {
      ui.preauthorizeApiKey("key", JSON.parse(answer.text).key);
    }
    return answer;
  },
});
