// Signs the text on standard input as GitHub's library does: node webhooks.mjs SECRET
import { sign } from "@octokit/webhooks-methods";
import { readFileSync } from "node:fs";

process.stdout.write(await sign(process.argv[2], readFileSync(0, "utf8")));
