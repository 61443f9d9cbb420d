// The browser test of the page that shows the REST interface.

import assert from "node:assert/strict";
import { answerOf, step, textOf, visible } from "./smoke-steps.mjs";

export async function driveDocs(page, server) {
  await step(page, "The console leads to the page of the REST interface", async () => {
    await page.click("footer a[href=docs]");
    await page.waitForSelector("#docs-operations .operation");
    const { paths } = await (await page.request.get(`${server.url}openapi.json`)).json();
    const operations = Object.values(paths).flatMap((item) => Object.keys(item).filter((method) => method !== "parameters"));
    assert.equal(await page.locator(".operation").count(), operations.length);
    assert.equal(await page.locator("#docs-error .error").count(), 0);
  });

  await step(page, "An operation is found, read, and tried with its example", async () => {
    await page.fill("#docs-filter", "post predict");
    await page.click("#predict > summary");
    await page.waitForSelector("#predict .inside"); // Made once the browser says that it is open, which it does later.
    assert.match(await textOf(page, "#predict"), /X-Timeout-Ms[^]*504/);
    assert.equal(await page.locator("#listModels").isVisible(), false);
    const send = () => page.click("#try-predict button");
    const answer = await answerOf(page, "/predict", send);
    assert.equal(answer.status, 200, JSON.stringify(answer.body));
    assert.deepEqual(answer.body.prediction, [0]);
    const shown = await textOf(page, "#try-predict .result");
    assert.ok(shown.includes(answer.body.request_id) && shown.includes("200"), shown);
    await page.fill("#try-predict-body", "{");
    assert.equal((await answerOf(page, "/predict", send)).status, 400);
    assert.match(await textOf(page, "#try-predict .result"), /invalid_input/);
  });

  await step(page, "Parameters go into the path and the query", async () => {
    await page.fill("#docs-filter", "");
    await page.click("#readFile > summary");
    await page.fill("#try-readFile-path", "labels.json");
    const file = await answerOf(page, "/models/iris/versions/1/files/labels.json", () => page.click("#try-readFile button"), "GET");
    assert.equal(file.status, 200);
    await page.click("#showModel > summary");
    const model = await answerOf(page, "/models/info", () => page.click("#try-showModel button"), "GET");
    assert.equal(model.body.model.id, "iris");
    await visible(page, "#try-showModel .result pre");
  });

  await step(page, "An address that names an operation opens it", async () => {
    await page.setViewportSize({ width: 360, height: 780 });
    await page.goto(`${server.url}docs#uploadModel`);
    await page.waitForSelector("#uploadModel[open] .inside");
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.ok(overflow <= 0, `the page is ${overflow} px wider than the screen`);
  });
}
