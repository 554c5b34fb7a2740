// Prints what the official parser says of the document on standard input, as a JSON list.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const { diagnostics } = await new Parser().parse(readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(diagnostics));
