// stdin: {browser: path, profile: folder, page: address};
// stdout: what was asked for, what was logged, and what the page had computed after each step.

import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const { browser, profile, page: address } = JSON.parse(readFileSync(0, "utf8"));
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
  const requests = [];
  const logged = [];
  page.on("request", (request) => requests.push(request.url()));
  page.on("console", (message) => logged.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => logged.push(`error: ${error.message}`));
  page.on("requestfailed", (request) => logged.push(`failed: ${request.url()}`));
  const steps = {};
  // JSON has no NaN: it comes out as null.
  const keep = async (name) => {
    await page.waitForSelector('main[aria-busy="false"]:not([hidden])');
    const shown = await page.locator('[data-view="pixels"] .number').textContent();
    steps[name] = { ...(await page.evaluate(() => window.dmsTry)), shown };
  };
  const control = (view, name) => page.locator(`[data-view="${view}"] .${name}`);

  await page.goto(address);
  await keep("clean");
  await control("pixels", "noise").click(); // in the middle of the track
  await keep("a click on a slider");
  await control("pixels", "noise").press("Home");
  await keep("back by the keyboard");
  await page.mouse.click(0, 0);
  await control("pixels", "noise").press("End");
  await control("gradients", "covered").fill("50");
  await keep("noise and a cover");
  await control("spectrum", "present").click();
  await keep("spectrum absent");
  await page.locator("#nan").click();
  await keep("NaN in its place");
  const said = await page.locator("#same").textContent();
  for (const name of ["pixels", "projections", "gradients"]) {
    await control(name, "present").press("Space");
  }
  await keep("nothing present");
  await page.locator("#reset").click();
  await keep("undone");
  await page.locator("#another").click();
  await keep("another digit");
  await page.reload();
  await keep("after a reload");
  process.stdout.write(JSON.stringify({ requests, logged, steps, said }));
} finally {
  await context.close();
}
