// What the steps of the browser test have in common.

import { mkdir } from "node:fs/promises";
import { join } from "node:path";

const screenshots = process.env.SCREENSHOTS;

export let passed = 0;
export const failures = [];

export async function step(page, name, body) {
  try {
    await body();
    passed += 1;
    console.log(`ok    ${name}`);
  } catch (error) {
    failures.push(name);
    console.error(`FAIL  ${name}\n${error.stack ?? error}`);
  }
  if (!screenshots) return;
  await mkdir(screenshots, { recursive: true });
  const file = `${String(passed + failures.length).padStart(2, "0")}-${name.toLowerCase().replace(/[^a-z0-9]+/g, "-")}.png`;
  await page.screenshot({ path: join(screenshots, file), fullPage: true });
}

/** Does `act`, and waits for the answer to the request that it causes: its status, headers and body. */
export async function answerOf(page, path, act, method = "POST") {
  const [response] = await Promise.all([
    page.waitForResponse((response) => new URL(response.url()).pathname === path && response.request().method() === method),
    act(),
  ]);
  await page.waitForFunction(() => !document.querySelector("[aria-busy=true], [aria-disabled=true]"));
  const text = await response.text();
  const isJson = /json/.test(response.headers()["content-type"]);
  return { status: response.status(), headers: response.headers(), text, body: isJson ? JSON.parse(text) : null };
}

export const textOf = (page, selector) => page.locator(selector).innerText();

/** Waits for what `selector` names to be seen. */
export const visible = (page, selector) => page.locator(selector).waitFor();

/** Does `act`, and answers its question with yes. */
export async function agree(page, act) {
  page.once("dialog", (dialog) => dialog.accept());
  await act();
}
