// Drives the web page of the real binary in Chromium: `npm ci && MODEL_NEXUS_BIN=… npm run smoke`.
//
//   MODEL_NEXUS_BIN     the binary (default: target/release/model-nexus); it inherits ORT_DYLIB_PATH, NEXUS_BUNDLE and the rest
//   NEXUS_TEST_PLUGINS  the folder of built plugins, `hostile` among them (default: target/plugins-out)
//   CHROMIUM            the browser (default: /usr/bin/chromium)
//   SCREENSHOTS         a folder for a picture of each step; none is taken without it
//
// Everything listens on a free port, and everything written goes into a temporary folder that is removed at the end.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { access, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { contract, drivePlugins, driveRemoval, hostile } from "./smoke-plugins.mjs";
import { driveDocs } from "./smoke-docs.mjs";
import { driveVersions } from "./smoke-versions.mjs";
import { answerOf, failures, passed, step, textOf, visible } from "./smoke-steps.mjs";

const root = fileURLToPath(new URL("../../", import.meta.url));
const binary = process.env.MODEL_NEXUS_BIN || join(root, "target/release/model-nexus");
const browserPath = process.env.CHROMIUM || "/usr/bin/chromium";
const cat = join(root, "host/tests/fixtures/images/cat.jpg");
const iris = join(root, "models/iris/1/model.onnx");
const imageModel = join(root, "models/efficientnet-lite0/1/model.onnx");
const imageLabels = join(root, "models/efficientnet-lite0/1/labels.json");
const patience = 240_000; // For a start or an answer; a first start compiles plugins, on a machine that may be busy.

const cleanups = [];

/** Starts the server and resolves to its address once it says, in a JSON log line, that it listens. */
async function startServer(store) {
  const server = spawn(binary, ["serve", "--listen", "127.0.0.1:0", "--store", store, "--allow-host", "127.0.0.1"], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  const log = [];
  const gone = new Promise((resolve) => {
    server.once("error", (error) => resolve(`could not be started: ${error.message}`));
    server.once("exit", (code, signal) => resolve(`ended with ${signal ?? `status ${code}`}`));
  });
  cleanups.push(async () => {
    if (server.exitCode !== null || server.signalCode !== null || server.pid === undefined) return;
    server.kill("SIGTERM");
    const stubborn = setTimeout(() => server.kill("SIGKILL"), 5000);
    await gone;
    clearTimeout(stubborn);
  });

  const address = new Promise((resolve) => {
    for (const stream of [server.stdout, server.stderr]) {
      createInterface({ input: stream }).on("line", (line) => {
        log.push(line);
        if (log.length > 40) log.shift();
        let entry;
        try {
          entry = JSON.parse(line);
        } catch {
          return; // A line that is not JSON is kept for the report and says nothing here.
        }
        const fields = { ...entry, ...entry?.fields };
        if (fields.message === "listening" && fields.address) resolve({ address: fields.address });
      });
    }
  });
  const result = await Promise.race([
    address,
    gone.then((how) => ({ how })),
    new Promise((resolve) => setTimeout(resolve, patience, { how: `said nothing of listening for ${patience / 1000} s` }).unref()),
  ]);
  assert.ok(result.address, `${binary} ${result.how}. Its last lines:\n${log.join("\n")}`);
  return { url: `http://${result.address}/`, log };
}

/** A web server with one picture, which counts how often it is fetched. */
async function startPictures() {
  const bytes = await readFile(cat);
  const server = createServer((request, response) => {
    const found = request.url === "/cat.jpg";
    response.writeHead(found ? 200 : 404, { "content-type": found ? "image/jpeg" : "text/plain" });
    response.end(found ? bytes : "no such picture");
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  cleanups.push(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${server.address().port}`;
}

async function startBrowser() {
  const browser = await chromium.launch({
    executablePath: browserPath,
    timeout: patience,
    args: [
      "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
      "--disable-background-networking", "--disable-component-update", "--disable-sync",
    ],
  });
  cleanups.push(() => browser.close());
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 }, colorScheme: "light" });
  page.setDefaultTimeout(patience);
  const said = { errors: [] };
  page.on("console", (message) => message.type() === "error" && said.errors.push(message.text()));
  page.on("pageerror", (error) => said.errors.push(`uncaught: ${error.message}`));
  return { page, said };
}

async function expectCat(page, answer) {
  assert.equal(answer.status, 200, JSON.stringify(answer.body));
  assert.equal(await textOf(page, "#image-answer .headline strong"), "tiger cat");
  assert.equal(await page.locator("#image-answer .bars li").count(), answer.body.top_k.length);
  assert.equal(await textOf(page, "#image-answer .bars li:first-child .label"), `tiger cat#${answer.body.top_k[0].index}`);
  await visible(page, "#image-picture");
  await page.waitForFunction(() => document.querySelector("#image-picture").naturalWidth > 0);
}

async function drive(page, said, server, pictures, folder) {
  const submitImage = () => page.click("#image-submit");

  await step(page, "The page loads without console errors", async () => {
    const response = await page.goto(server.url, { waitUntil: "load" });
    assert.equal(response.status(), 200);
    await page.waitForSelector("#models-list li");
    assert.match(await page.title(), /Model Nexus/);
    assert.equal(await page.locator("#models-error .error").count(), 0);
    assert.deepEqual(said.errors, []);
  });

  await step(page, "An image by URL", async () => {
    await page.fill("#image-url", `${pictures}/cat.jpg`);
    await page.fill("#image-top-k", "3");
    const answer = await answerOf(page, "/predict", submitImage);
    await expectCat(page, answer);
    assert.equal(answer.body.top_k.length, 3);
    assert.equal(await textOf(page, "#image-answer [data-cache]"), "miss");
    assert.ok((await textOf(page, "#image-answer .facts")).includes(answer.body.request_id), "the request id should be shown");
  });

  await step(page, "The same URL again comes from the cache", async () => {
    const answer = await answerOf(page, "/predict", submitImage);
    await expectCat(page, answer);
    assert.equal(await textOf(page, "#image-answer [data-cache]"), "hit");
  });

  await step(page, "An image from a file", async () => {
    const answer = await answerOf(page, "/predict", () => page.setInputFiles("#image-file", cat));
    await expectCat(page, answer);
    assert.equal(await page.inputValue("#image-url"), "");
    assert.match(await page.getAttribute("#image-picture", "src"), /^blob:/);
  });

  await step(page, "A dropped picture", async () => {
    await page.click("#image-clear");
    const dropped = await page.evaluateHandle((base64) => {
      const transfer = new DataTransfer();
      const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
      transfer.items.add(new File([bytes], "dropped.jpg", { type: "image/jpeg" }));
      return transfer;
    }, (await readFile(cat)).toString("base64"));
    const answer = await answerOf(page, "/predict", () => page.dispatchEvent("#drop", "drop", { dataTransfer: dropped }));
    await expectCat(page, answer);
    assert.match(await textOf(page, "#image-chosen-name"), /dropped\.jpg/);
  });

  await step(page, "A URL that answers 404 shows an error", async () => {
    await page.fill("#image-url", `${pictures}/missing.jpg`);
    const answer = await answerOf(page, "/predict", submitImage);
    assert.ok(answer.status >= 400, `expected an error, got ${answer.status}`);
    const shown = await textOf(page, "#image-error");
    assert.ok(shown.includes(answer.body.error), shown);
    assert.ok(shown.includes(answer.body.request_id), shown);
    assert.equal(await page.locator("#image-answer").isVisible(), false);
    assert.equal(await page.locator("#image-figure").isVisible(), false);
  });

  await step(page, "Markup from strangers is shown as text", async () => {
    const markup = '<img src="x" onerror="document.title=1">';
    const answers = [
      { status: 403, json: { error: `${markup}: allow it with --allow-host example.org`, code: "forbidden", request_id: "r-1" } },
      { status: 200, json: { predicted_label: markup, confidence: 1, top_k: [{ label: markup, index: 0, confidence: 1 }], model_id: markup } },
    ];
    await page.route("**/predict", (route) => route.fulfill(answers.shift()));
    await page.fill("#image-url", `${pictures}/cat.jpg`);
    await answerOf(page, "/predict", submitImage);
    const shown = await textOf(page, "#image-error");
    assert.ok(shown.includes(markup) && shown.includes("--allow-host example.org") && shown.includes("r-1"), shown);
    assert.ok(shown.includes("403") && shown.includes("forbidden"), shown);
    await answerOf(page, "/predict", submitImage);
    assert.equal(await textOf(page, "#image-answer .headline strong"), markup);
    assert.equal(await page.locator("#image-answer img, #image-error img").count(), 0);
    assert.match(await page.title(), /Model Nexus/);
    await page.unroute("**/predict");
  });

  await step(page, "A model uploaded under a new id is in the list", async () => {
    const labels = join(folder, "labels.json");
    await writeFile(labels, '{"0": "setosa", "1": "versicolor", "2": "virginica"}');
    await page.setInputFiles("#add-file", iris);
    await page.setInputFiles("#add-labels", labels);
    await page.fill("#add-id", "smoke-iris");
    await page.fill("#add-name", "Iris of the smoke test");
    await page.fill("#add-version", "7");
    const answer = await answerOf(page, "/models/upload", () => page.click("#add-submit"));
    assert.equal(answer.status, 201, JSON.stringify(answer.body));
    assert.match(await textOf(page, "#add-status"), /smoke-iris, version 7/);
    const row = '#models-list li[data-id="smoke-iris"][data-version="7"]';
    await visible(page, row);
    const shown = await textOf(page, row);
    assert.match(shown, /Iris of the smoke test/);
    assert.match(shown, /X FP32 \[[^,\]]+, 4\]/);
  });

  await step(page, "The same id and version again is refused", async () => {
    await page.setInputFiles("#add-file", iris);
    await page.fill("#add-id", "smoke-iris");
    await page.fill("#add-version", "7");
    const answer = await answerOf(page, "/models/upload", () => page.click("#add-submit"));
    assert.equal(answer.status, 409, JSON.stringify(answer.body));
    assert.ok((await textOf(page, "#add-error")).includes(answer.body.error));
  });

  await step(page, "Features are predicted", async () => {
    await page.click('#models-list li[data-id="smoke-iris"] button');
    assert.deepEqual(JSON.parse(await page.inputValue("#features")), [0, 0, 0, 0]);
    await page.fill("#features", "[5.1, 3.5, 1.4, 0.2]");
    const answer = await answerOf(page, "/predict", () => page.click("#features-submit"));
    assert.equal(answer.status, 200, JSON.stringify(answer.body));
    await visible(page, "#features-answer");
    const shown = await textOf(page, "#features-answer");
    assert.match(shown, /setosa|prediction|outputs/, shown);
    assert.ok(shown.includes("smoke-iris"), shown);
  });

  await step(page, "Features that do not fit show the server's error", async () => {
    await page.fill("#features", "[1, 2]");
    const answer = await answerOf(page, "/predict", () => page.click("#features-submit"));
    assert.equal(answer.status, 400, JSON.stringify(answer.body));
    assert.ok((await textOf(page, "#features-error")).includes(answer.body.error));
  });

  await step(page, "An image model with labels becomes the default", async () => {
    await page.setInputFiles("#upload-model", imageModel);
    await page.setInputFiles("#upload-labels", imageLabels);
    const answer = await answerOf(page, "/upload", () => page.click("#upload-submit"));
    assert.ok(answer.status >= 200 && answer.status < 300, JSON.stringify(answer.body));
    assert.equal(answer.body.status, "success");
    assert.match(await textOf(page, "#upload-status"), /default for pictures/);
    assert.equal(await page.locator("#models-list .badge.accent").count(), 1, "one model should be the default");
    await expectCat(page, await answerOf(page, "/predict", () => page.setInputFiles("#image-file", cat)));
  });

  await driveVersions(page, join(folder, "store"));

  await drivePlugins(page);

  await step(page, "The page is whole in the dark and on a phone", async () => {
    await page.emulateMedia({ colorScheme: "dark" });
    await page.setViewportSize({ width: 360, height: 780 });
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.ok(overflow <= 0, `the page is ${overflow} px wider than the screen`);
  });

  await driveRemoval(page);

  await page.setViewportSize({ width: 1280, height: 900 });
  await driveDocs(page, server);

  await step(page, "Nothing broke the content policy or threw", async () => {
    assert.deepEqual(said.errors.filter((text) => /uncaught|Content Security Policy/i.test(text)), []);
  });
}

async function main() {
  for (const path of [binary, browserPath, cat, iris, imageModel, imageLabels, contract, hostile]) {
    await access(path).catch(() => assert.fail(`${path} is missing`));
  }
  const folder = await mkdtemp(join(tmpdir(), "model-nexus-ui-"));
  cleanups.push(() => rm(folder, { recursive: true, force: true }));

  const server = await startServer(join(folder, "store"));
  const pictures = await startPictures();
  const { page, said } = await startBrowser();
  await drive(page, said, server, pictures, folder);
  if (failures.length) console.error(`The server's last lines:\n${server.log.join("\n")}`);
}

let ended = null;
/** Undoes everything, the newest first; each part is tried even where another fails. */
function cleanUp() {
  return (ended ??= (async () => {
    for (const undo of cleanups.reverse()) {
      try {
        await undo();
      } catch (error) {
        console.error(`while cleaning up: ${error.message}`);
      }
    }
  })());
}
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => cleanUp().then(() => process.exit(1)));

try {
  await main();
} catch (error) {
  failures.push("the set-up");
  console.error(`FAIL  ${error.message}`);
} finally {
  await cleanUp();
}
console.log(`${passed} passed, ${failures.length} failed`);
process.exitCode = failures.length ? 1 : 0;
