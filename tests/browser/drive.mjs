// Drives Chromium for a test: a line of JSON on standard input is a command, a line on standard output its answer.
//
//   {"open": URL, "page": NAME, "script": BOOL}   opens a page, with or without JavaScript
//   {"eval": EXPRESSION, "page": NAME}            the value of an expression in the page
//   {"key": KEY, "page": NAME}                    presses a key
//   {"seen": true, "page": NAME}                  errors that the page met, and what it asked for
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const [tools, chromiumPath] = process.argv.slice(2);
const { chromium } = createRequire(`${tools}/`)("playwright-core");
const browser = await chromium.launch({
  executablePath: chromiumPath,
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
  ],
});
const pages = new Map();

async function obey(command) {
  if (command.open) {
    const page = await browser.newPage({ javaScriptEnabled: command.script ?? true });
    const seen = { errors: [], requests: [] };
    page.on("console", (message) => message.type() === "error" && seen.errors.push(message.text()));
    page.on("pageerror", (error) => seen.errors.push(error.message));
    page.on("request", (request) => seen.requests.push(request.url()));
    pages.set(command.page, { page, seen });
    await page.goto(command.open, { waitUntil: "domcontentloaded" });
    return null;
  }
  const { page, seen } = pages.get(command.page);
  if (command.eval) return page.evaluate(command.eval);
  if (command.key) return page.keyboard.press(command.key);
  return seen;
}

for await (const line of createInterface({ input: process.stdin })) {
  const answer = await obey(JSON.parse(line)).then((value) => ({ value }), (error) => ({ error: String(error) }));
  console.log(JSON.stringify(answer));
}
await browser.close();
