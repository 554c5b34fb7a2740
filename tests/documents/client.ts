// A client in the types that openapi-typescript makes of the document; a test compiles it.
import type { components, operations, paths } from "./schema";

type Schemas = components["schemas"];
type Answer<Name extends keyof operations, Status extends keyof operations[Name]["responses"]> =
  operations[Name]["responses"][Status] extends { content: { "application/json": infer Body } } ? Body : never;
type Problem = components["responses"]["Problem"]["content"]["application/problem+json"];

export const event: Schemas["EventIn"] = {
  type: "order.created",
  data: { item: "book", quantity: 2 },
  subject: null,
  priority: 9,
  colour: "red",
};

export const filter: Schemas["Filter"] = {
  all: [{ exact: { "data.customer.country": "NO", "data.n": 2 } }, { not: { prefix: { subject: "test-" } } }],
};

export const handler: Schemas["HandlerIn"] = {
  name: "try-me",
  target: "orders:price",
  events: ["order.*"],
  filter,
  timeout: null,
  pool: "auto",
};

export const retry: operations["retry_runs"]["requestBody"]["content"]["application/json"] = { state: "dead" };

export function receipts(answer: Answer<"publish_events", 202>): Schemas["Receipt"][] {
  if ("items" in answer) return answer.items;
  return "seq" in answer ? [answer] : []; // of NDJSON there are only counts
}

export function describe(page: Answer<"list_results", 200>): string[] {
  return page.items.map((item) => {
    const value = item.data_base64 ?? JSON.stringify(item.data);
    const ended = item.completes === null ? "" : Object.keys(item.completes).join();
    return `${item.cursor} ${item.event.type} ${item.handler} ${item.error?.message ?? value} ${ended}`;
  });
}

export function alive(status: Answer<"read_status", 200>): number[] {
  return Object.values(status.workers.pools).flatMap((pool) => pool.workers.map((worker) => worker.pid));
}

export function told(problem: Problem): string {
  return [problem.detail, ...(problem.errors ?? []).map((bad) => `${bad.loc.join(".")}: ${bad.msg}`)].join("\n");
}

export const limit: NonNullable<paths["/v1/runs"]["get"]["parameters"]["query"]>["limit"] = 100;
