// The browser test of plugins: they come, are bound, fail and go. It needs the model smoke-iris, version 7.

import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { agree, answerOf, step, textOf, visible } from "./smoke-steps.mjs";

const root = fileURLToPath(new URL("../../", import.meta.url));
export const contract = join(root, "host/tests/fixtures/plugins/contract-0.1.0.wasm");
export const hostile = join(process.env.NEXUS_TEST_PLUGINS || join(root, "target/plugins-out"), "hostile.wasm");

const fixtureRow = '#plugins-list li[data-plugin="contract-fixture@0.1.0"]';
const hostileRow = '#plugins-list li[data-plugin="hostile@0.1.0"]';
const irisRow = '#models-list li[data-id="smoke-iris"]';
const irisPipeline = "/models/smoke-iris/pipeline";

const bind = (page) => answerOf(page, irisPipeline, () => page.click("#pipeline-bind"), "PUT");

async function uploadPlugin(page, file) {
  await page.setInputFiles("#plugin-file", file);
  return answerOf(page, "/plugins/upload", () => page.click("#plugin-submit"));
}

async function predictTyped(page, json) {
  await page.fill("#features", json);
  return answerOf(page, "/predict", () => page.click("#features-submit"));
}

export async function drivePlugins(page) {
  await step(page, "A plugin uploaded with grants is in the list", async () => {
    await page.fill("#plugin-hosts", "api.example.com, *.example.org");
    await page.check("#plugin-clock");
    const answer = await uploadPlugin(page, contract);
    assert.equal(answer.status, 201, JSON.stringify(answer.body));
    const { plugin } = answer.body;
    assert.deepEqual(plugin.grants, { hosts: ["api.example.com", "*.example.org"], clock: true, random: false });
    assert.match(await textOf(page, "#plugin-status"), /contract-fixture@0\.1\.0/);
    const shown = await textOf(page, fixtureRow);
    const expected = ["preprocess", "postprocess", plugin.contract, plugin.sha256.slice(0, 12), "api.example.com, *.example.org; the clock", "no model", "snapshot"];
    for (const text of expected) assert.ok(shown.includes(text), `${text} should be in: ${shown}`);
    assert.equal(await page.locator(`${fixtureRow} pre`).isVisible(), false);
    await page.click(`${fixtureRow} summary`);
    assert.match(await textOf(page, `${fixtureRow} pre`), /"scale"/);
  });

  await step(page, "The same plugin again is refused", async () => {
    const answer = await uploadPlugin(page, contract);
    assert.equal(answer.status, 409, JSON.stringify(answer.body));
    assert.ok((await textOf(page, "#plugin-error")).includes(answer.body.error));
  });

  await step(page, "A wrong configuration is refused, with the path of the field", async () => {
    await answerOf(page, irisPipeline, () => page.click(`${irisRow} [data-action=pipeline]`), "GET");
    assert.match(await textOf(page, "#pipeline-now"), /No plugins/);
    await page.selectOption("#preprocess-plugin", "contract-fixture@0.1.0");
    await page.fill("#preprocess-config", '{"scale": "big"}');
    await page.check("#postprocess-same");
    const answer = await bind(page);
    assert.equal(answer.status, 400, JSON.stringify(answer.body));
    const shown = await textOf(page, "#pipeline-error");
    assert.ok(shown.includes(answer.body.error) && shown.includes("/scale"), shown);
    assert.match(await textOf(page, "#pipeline-now"), /No plugins/);
  });

  await step(page, "A configuration that is no JSON is not sent", async () => {
    await page.fill("#preprocess-config", '{"scale": ');
    await page.click("#pipeline-bind");
    assert.match(await textOf(page, "#pipeline-error"), /configuration of preprocess: this is not JSON yet/);
    assert.equal(await page.getAttribute("#preprocess-config", "aria-invalid"), "true");
  });

  await step(page, "A plugin is bound to a model", async () => {
    await page.fill("#preprocess-config", '{"scale": 1.0}');
    await page.selectOption("#postprocess-failure", "bypass");
    const answer = await bind(page);
    assert.equal(answer.status, 200, JSON.stringify(answer.body));
    const stage = { plugin: "contract-fixture@0.1.0", config: { scale: 1 } };
    const [bound] = answer.body.versions;
    assert.deepEqual(bound.pipeline, { preprocess: stage, postprocess: { ...stage, on_failure: "bypass" } });
    const shown = await textOf(page, "#pipeline-now");
    for (const text of ["Version 7", "snapshot", "On failure: bypass", "the plugin's own golden request"]) {
      assert.ok(shown.includes(text), `${text} should be in: ${shown}`);
    }
    await page.waitForSelector(`${fixtureRow}:has-text("smoke-iris, version 7 (preprocess, postprocess)")`);
    assert.match(await textOf(page, `${irisRow} .badges`), /contract-fixture@0\.1\.0/);
  });

  await step(page, "A prediction through the plugin shows its steps", async () => {
    await page.click(`${irisRow} [data-action=try]`);
    const answer = await predictTyped(page, '{"x": [5.1, 3.5, 1.4, 0.2]}');
    assert.equal(answer.status, 200, JSON.stringify(answer.body));
    assert.equal(answer.body.first.label, 0);
    const steps = answer.headers["server-timing"].split(", ").map((step) => step.split(";")[0]);
    assert.deepEqual(steps, ["preprocess", "queue", "infer", "postprocess"]);
    assert.deepEqual(await page.locator("#features-answer .timing li > span:first-child").allInnerTexts(), steps);
    assert.match(await textOf(page, "#features-answer .timing li:first-child .value"), /^[\d.]+ ms$/);
    assert.ok((await textOf(page, "#features-answer")).includes('"label":0'));
  });

  await step(page, "A plugin that is bound cannot be removed", async () => {
    const remove = () => agree(page, () => page.click(`${fixtureRow} button`));
    const answer = await answerOf(page, "/plugins", remove, "DELETE");
    assert.equal(answer.status, 409, JSON.stringify(answer.body));
    assert.ok((await textOf(page, `${fixtureRow} .error`)).includes(answer.body.error));
  });

  await step(page, "A plugin that keeps failing is warned of at the top", async () => {
    assert.equal((await uploadPlugin(page, hostile)).status, 201);
    await page.uncheck("#postprocess-same");
    await page.selectOption("#preprocess-plugin", "hostile@0.1.0");
    await page.fill("#preprocess-config", '{"stage": "preprocess", "do": "panic"}');
    await page.selectOption("#postprocess-plugin", "");
    assert.equal((await bind(page)).status, 200, await textOf(page, "#pipeline-error"));
    assert.match(await textOf(page, "#pipeline-now"), /has not run yet/);
    await page.click(`${irisRow} [data-action=try]`);
    let answer;
    for (let failures = 0; failures < 5; failures += 1) answer = await predictTyped(page, '{"x": [1,2,3,4]}');
    assert.equal(answer.status, 502, JSON.stringify(answer.body));
    assert.ok((await textOf(page, "#features-error")).includes(answer.body.error));
    await page.waitForSelector("#warnings .warning");
    const shown = await textOf(page, "#warnings");
    assert.match(shown, /hostile@0\.1\.0 at smoke-iris, version 7, failed 5 times in a row[^]*panicked/);
  });

  await step(page, "A plugin that was bypassed is warned of beside the answer", async () => {
    // What the model answers takes the place of what postprocess would make of it.
    await page.selectOption("#postprocess-plugin", "hostile@0.1.0");
    for (const stage of ["preprocess", "postprocess"]) {
      await page.fill(`#${stage}-config`, '{"stage": "postprocess", "do": "panic"}');
    }
    await page.selectOption("#postprocess-failure", "bypass");
    assert.equal((await bind(page)).status, 200, await textOf(page, "#pipeline-error"));
    await page.waitForSelector("#warnings .warning", { state: "detached" }); // A new binding begins anew.
    const answer = await predictTyped(page, '{"x": [1,2,3,4]}');
    assert.equal(answer.status, 200, JSON.stringify(answer.body));
    assert.equal(answer.headers["x-bypassed"], "postprocess");
    assert.match(await textOf(page, "#features-answer .warning"), /Bypassed: postprocess/);
  });

  await step(page, "A plugin's answer of another type is shown as text", async () => {
    await page.fill("#preprocess-config", '{"stage": "postprocess", "do": "other-type"}');
    await page.check("#postprocess-same");
    assert.equal((await bind(page)).status, 200, await textOf(page, "#pipeline-error"));
    const { headers, text } = await answerOf(page, "/predict", () => page.click("#features-submit"));
    assert.match(headers["content-type"], /^text\//);
    assert.equal(await textOf(page, "#features-answer pre"), text);
    assert.ok((await textOf(page, "#features-answer .facts")).includes(headers["content-type"]));
  });
}

export async function driveRemoval(page) {
  await step(page, "A model is unbound", async () => {
    const answer = await answerOf(page, irisPipeline, () => page.click("#pipeline-unbind"), "DELETE");
    assert.equal(answer.status, 200, JSON.stringify(answer.body));
    assert.match(await textOf(page, "#pipeline-status"), /Unbound/);
    assert.match(await textOf(page, "#pipeline-now"), /No plugins/);
    assert.equal(await page.locator(`${irisRow} .badge`).count(), 0);
    const features = await predictTyped(page, "[5.1, 3.5, 1.4, 0.2]");
    assert.equal(features.status, 200, JSON.stringify(features.body));
  });

  await step(page, "Plugins are removed, once that is agreed to", async () => {
    await page.click(`${fixtureRow} button`); // The question is answered with no where nobody agrees.
    await visible(page, fixtureRow);
    for (const row of [fixtureRow, hostileRow]) {
      const remove = () => agree(page, () => page.click(`${row} button`));
      const answer = await answerOf(page, "/plugins", remove, "DELETE");
      assert.equal(answer.status, 200, JSON.stringify(answer.body));
      await page.waitForSelector(row, { state: "detached" });
    }
    assert.match(await textOf(page, "#plugins-status"), /hostile@0\.1\.0 is removed/);
  });
}
