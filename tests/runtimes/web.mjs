// stdin: {browser: path, profile: folder, page: address, model: address, batches};
// stdout: {version: of the browser, found: the outputs of each batch}.

import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const { browser, profile, page: address, model, batches } = JSON.parse(readFileSync(0, "utf8"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath: browser,
  headless: true,
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    // What is served from this machine has to be enough.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
  ],
});
try {
  const page = await context.newPage();
  await page.goto(address);
  const found = await page.evaluate(
    async ([model, batches]) => {
      const [ort, { run }] = await Promise.all([import("./ort.mjs"), import("./tensors.mjs")]);
      return run(ort, model, batches);
    },
    [model, batches],
  );
  process.stdout.write(JSON.stringify({ version: context.browser().version(), found }));
} finally {
  await context.close();
}
