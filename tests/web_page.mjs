// Opens the page in Chromium, gives it a photograph, and prints what it says.
//
//   node web_page.mjs URL IMAGE SCREENSHOT
//
// Beside it there has to be a node_modules with playwright-core.
import { chromium } from "playwright-core";

const [url, image, screenshot] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
  ],
});
const page = await browser.newPage();
const foreign = [];
page.on("request", (request) => {
  if (new URL(request.url()).protocol.startsWith("http") &&
      !request.url().startsWith(new URL(url).origin)) {
    foreign.push(request.url());
  }
});
const errors = [];
page.on("pageerror", (error) => errors.push(error.message));
await page.goto(url);
const status = page.locator("#status");
await status.filter({ hasNotText: "Loading" }).waitFor({ timeout: 60000 });
const first = await status.textContent();
if (first === "Ready.") {
  await page.setInputFiles("#file", image);
  await status.filter({ hasText: / ms$/ }).waitFor({ timeout: 60000 });
}
const answers = await page.locator("tr").evaluateAll((rows) =>
  rows.map((row) => [row.cells[0].textContent, row.cells[2].textContent]));
await page.screenshot({ path: screenshot, fullPage: true });
console.log(JSON.stringify({
  answers, foreign, errors, status: await status.textContent(),
}));
await browser.close();
