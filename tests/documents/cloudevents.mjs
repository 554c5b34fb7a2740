// The CloudEvents SDK for JavaScript as a client. Reads {url, events}, publishes each event in both modes that the SDK
// can write, and all in a batch. Prints the events as the SDK reads them back.
import { readFileSync } from "node:fs";
import { CloudEvent, HTTP, Mode, emitterFor, httpTransport } from "cloudevents";

const { url, events } = JSON.parse(readFileSync(0, "utf8"));
const made = (mode) =>
  events.map(({ base64, ...members }) => {
    const payload = base64 === undefined ? {} : { data: new Uint8Array(Buffer.from(base64, "base64")) };
    return new CloudEvent({ ...members, ...payload, id: `${mode}-${members.id}` });
  });
const receipts = [];
for (const mode of [Mode.STRUCTURED, Mode.BINARY]) {
  const emit = emitterFor(httpTransport(`${url}/v1/events`), { mode });
  for (const event of made(mode)) receipts.push(JSON.parse((await emit(event)).body));
}
const headers = { "Content-Type": "application/cloudevents-batch+json" };
const body = JSON.stringify(made(Mode.BATCH));
const batch = await fetch(`${url}/v1/events`, { method: "POST", headers, body });
receipts.push(...(await batch.json()).items);

const found = [];
for (const { seq } of receipts) {
  const answer = await fetch(`${url}/v1/events/${seq}`, { headers: { Accept: "application/cloudevents+json" } });
  const read = HTTP.toEvent({ headers: Object.fromEntries(answer.headers), body: await answer.text() });
  read.validate();
  found.push({ ...read.toJSON(), data: read.data_base64 ?? read.data });
}
process.stdout.write(JSON.stringify(found));
