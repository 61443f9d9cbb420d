// The browser test of versions and traffic: they come, are unloaded, share the requests, and go.

import assert from "node:assert/strict";
import { rename } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { agree, answerOf, step, textOf, visible } from "./smoke-steps.mjs";

const iris = fileURLToPath(new URL("../../models/iris/1/model.onnx", import.meta.url));
const id = "smoke-versions";
const row = (version) => `#versions-list li[data-version="${version}"]`;
const button = (version, action) => `${row(version)} [data-action=${action}]`;
const weight = (version) => `#traffic-weights input[data-version="${version}"]`;

/** A protobuf message of fields, each with its number and a number below 128, a text or another message. */
function message(...fields) {
  const length = (size) => (size < 128 ? [size] : [(size & 127) | 128, size >> 7]);
  const encode = ([field, value]) => {
    if (typeof value === "number") return Buffer.from([field << 3, value]);
    const bytes = Buffer.from(value);
    return Buffer.concat([Buffer.from([(field << 3) | 2, ...length(bytes.length)]), bytes]);
  };
  return Buffer.concat(fields.map(encode));
}

/** A model that adds two floats from the file `w.bin` to its input: `onnx.proto` has the numbers. */
function modelWithData() {
  const value = (name) => message([1, name], [2, message([1, message([1, 1], [2, message([1, message([1, 2])])])])]);
  const weight = message([1, 2], [2, 1], [8, "w"], [13, message([1, "location"], [2, "w.bin"])], [14, 1]);
  const node = message([1, "x"], [1, "w"], [2, "y"], [4, "Add"]);
  const graph = message([1, node], [2, "test"], [5, weight], [11, value("x")], [12, value("y")]);
  return message([1, 8], [7, graph], [8, message([2, 17])]);
}

async function upload(page, version) {
  await page.setInputFiles("#add-file", iris);
  await page.fill("#add-id", id);
  await page.fill("#add-version", version);
  const answer = await answerOf(page, "/models/upload", () => page.click("#add-submit"));
  assert.equal(answer.status, 201, JSON.stringify(answer.body));
}

async function shows(page, selector, ...expected) {
  for (const text of expected) await page.locator(selector).filter({ hasText: text }).waitFor();
}

const apply = (page) => answerOf(page, `/models/${id}/traffic`, () => page.click("#traffic-save"), "PUT");

export async function driveVersions(page, store) {
  await step(page, "A model whose weights lie in a file of their own", async () => {
    const file = (name, buffer) => ({ name, mimeType: "application/octet-stream", buffer });
    const submit = () => answerOf(page, "/models/upload", () => page.click("#add-submit"));
    await page.fill("#add-id", "");
    await page.setInputFiles("#add-file", file("adds.onnx", modelWithData()));
    assert.equal(await page.inputValue("#add-id"), "adds");
    const alone = await submit();
    assert.equal(alone.status, 400, JSON.stringify(alone.body));
    assert.match(await textOf(page, "#add-error"), /w\.bin/);
    await page.setInputFiles("#add-data", file("w.bin", Buffer.from(new Float32Array([10, 20]).buffer)));
    const whole = await submit();
    assert.equal(whole.status, 201, JSON.stringify(whole.body));
    await page.fill("#features", "[1, 1]");
    const answer = await answerOf(page, "/predict", () => page.click("#features-submit"));
    assert.deepEqual(answer.body.prediction, [11, 21], JSON.stringify(answer.body));
  });

  await step(page, "The versions of a model are shown with what they cost", async () => {
    for (const version of ["1", "2", "10"]) await upload(page, version);
    await page.click(`#models-list li[data-id="${id}"][data-version="2"] [data-action=versions]`);
    await visible(page, row("10"));
    assert.deepEqual(await page.locator("#versions-list .name").allInnerTexts(), ["Version 1", "Version 2", "Version 10"]);
    await shows(page, row("10"), "ready", "default", "Memory", "Size", "Uploaded");
    assert.equal(await page.locator("#versions-list .badge", { hasText: "default" }).count(), 1);
    assert.match(await textOf(page, "#traffic-now"), /the newest version answers/);
    assert.ok(await page.isDisabled("#traffic-rollback"));
  });

  await step(page, "A version is unloaded, and loaded again", async () => {
    const unloaded = await answerOf(page, `/models/${id}/versions/10/unload`, () => page.click(button("10", "unload")));
    assert.deepEqual([unloaded.status, unloaded.body.state], [200, "unloaded"]);
    await shows(page, row("10"), "unloaded");
    await shows(page, row("2"), "default");
    assert.match(await textOf(page, "#versions-status"), /Version 10 is unloaded/);
    await shows(page, `#models-list li[data-id="${id}"][data-version="10"]`, "unloaded");
    assert.equal(await page.evaluate(() => document.activeElement.dataset.action), "load");
    const loaded = await answerOf(page, `/models/${id}/versions/10/load`, () => page.keyboard.press("Enter"));
    assert.deepEqual([loaded.status, loaded.body.state], [200, "ready"]);
    await shows(page, row("10"), "ready", "default");
  });

  await step(page, "Weights share the requests, sticky, with a shadow", async () => {
    await page.fill(weight("1"), "3");
    await page.fill(weight("2"), "1");
    assert.deepEqual(await page.locator("#traffic-weights .value").allInnerTexts(), ["75.0%", "25.0%", "0.0%"]);
    assert.ok(await page.isDisabled("#traffic-default"));
    await page.selectOption("#traffic-sticky", "header");
    await page.fill("#traffic-sticky-name", "x-user-id");
    await page.selectOption("#traffic-shadow", "10");
    await page.fill("#traffic-shadow-share", "50");
    const answer = await apply(page);
    assert.equal(answer.status, 200, JSON.stringify(answer.body));
    const rule = { weights: { 1: 3, 2: 1 }, sticky: { header: "x-user-id" }, shadow: { version: "10", fraction: 0.5 } };
    assert.deepEqual(answer.body.traffic, rule);
    await shows(page, row("1"), "75.0% of the traffic");
    await shows(page, row("10"), "shadow of 50%");
    assert.match(await textOf(page, "#traffic-status"), /75\.0% to version 1, 25\.0% to version 2; sticky by the header x-user-id/);
  });

  await step(page, "Both versions answer, and one user sees one of them", async () => {
    const served = async (user) => page.evaluate(async ([model_id, user]) => {
      const body = JSON.stringify({ model_id, features: [5.1, 3.5, 1.4, 0.2] });
      const answer = await fetch("predict", { method: "POST", headers: { "content-type": "application/json", "x-user-id": user }, body });
      return answer.headers.get("x-model-version");
    }, [id, user]);
    const users = Array.from({ length: 40 }, (_, user) => `user-${user}`);
    const first = await Promise.all(users.map(served));
    assert.deepEqual([...new Set(first)].sort(), ["1", "2"]);
    assert.deepEqual(await Promise.all(users.map(served)), first);
  });

  await step(page, "A version that takes traffic is not deleted", async () => {
    const remove = () => agree(page, () => page.click(button("2", "delete")));
    const answer = await answerOf(page, `/models/${id}/versions/2`, remove, "DELETE");
    assert.equal(answer.status, 409, JSON.stringify(answer.body));
    assert.ok((await textOf(page, "#versions-error")).includes(answer.body.error));
    await visible(page, row("2"));
  });

  await step(page, "A rule that cannot be is refused, and what was typed stays", async () => {
    await page.fill(weight("1"), "1e308");
    await page.fill(weight("2"), "1e308");
    const answer = await apply(page);
    assert.equal(answer.status, 400, JSON.stringify(answer.body));
    assert.ok((await textOf(page, "#traffic-error")).includes(answer.body.error));
    assert.equal(await page.inputValue(weight("1")), "1e308");
  });

  await step(page, "A default version is set, and rolled back", async () => {
    for (const version of ["1", "2"]) await page.fill(weight(version), "");
    await page.selectOption("#traffic-shadow", "");
    await page.selectOption("#traffic-default", "1");
    const set = await apply(page);
    assert.deepEqual(set.body.traffic, { default: "1" }, JSON.stringify(set.body));
    await shows(page, row("1"), "default");
    await shows(page, "#traffic-previous", "75.0% to version 1, 25.0% to version 2; sticky by the header x-user-id; version 10 shadows 50.0%");
    const back = await answerOf(page, `/models/${id}/traffic/rollback`, () => page.click("#traffic-rollback"));
    assert.equal(back.status, 200, JSON.stringify(back.body));
    await shows(page, "#traffic-previous", "version 1 answers");
    await shows(page, row("2"), "25.0% of the traffic");
    assert.equal(await page.inputValue(weight("1")), "3");
    const cleared = await answerOf(page, `/models/${id}/traffic`, () => page.click("#traffic-clear"), "DELETE");
    assert.deepEqual(cleared.body.traffic, {});
    await shows(page, "#traffic-now", "the newest version answers");
  });

  await step(page, "A version is deleted, and then the model, once that is agreed to", async () => {
    await page.click(button("2", "delete")); // The question is answered with no where nobody agrees.
    await visible(page, row("2"));
    const remove = () => agree(page, () => page.click(button("2", "delete")));
    const answer = await answerOf(page, `/models/${id}/versions/2`, remove, "DELETE");
    assert.deepEqual([answer.status, answer.body.removed], [200, ["2"]]);
    await page.waitForSelector(row("2"), { state: "detached" });
    assert.match(await textOf(page, "#versions-status"), /version 2, is deleted/);
    const whole = await answerOf(page, `/models/${id}`, () => agree(page, () => page.click("#versions-delete")), "DELETE");
    assert.equal(whole.status, 200, JSON.stringify(whole.body));
    await page.waitForSelector(`#models-list li[data-id="${id}"]`, { state: "detached" });
    assert.equal(await page.locator("#versions-model option", { hasText: id }).count(), 0);
  });

  await step(page, "A store that is gone is warned of, until it is back", async () => {
    const refreshUntil = async (state) => {
      for (let tries = 0; tries < 60; tries += 1) {
        await answerOf(page, "/health", () => page.click("#models-refresh"), "GET");
        const warned = page.locator("#warnings .warning", { hasText: "The store has not answered since" });
        if (await warned.waitFor({ state, timeout: 500 }).then(() => true, () => false)) return;
      }
      assert.fail(`the warning should be ${state}`);
    };
    await rename(store, `${store}-gone`);
    await refreshUntil("visible");
    await rename(`${store}-gone`, store);
    await refreshUntil("detached");
  });
}
