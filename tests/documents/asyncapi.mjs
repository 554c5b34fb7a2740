// Reads a JSON list of documents and prints, for each, the list of what the official parser says of it.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const parser = new Parser();
const found = [];
for (const text of JSON.parse(readFileSync(0, "utf8"))) {
  found.push((await parser.parse(text)).diagnostics);
}
process.stdout.write(JSON.stringify(found));
