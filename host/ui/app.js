// The page's behaviour. Every text that comes from the server goes in with textContent: labels, names and errors are
// written by strangers. Addresses are relative, so the page also works behind a proxy that puts a path before it.

const byId = (id) => document.getElementById(id);

/** An element with properties and children; a child that is a string becomes a text node, null is left out. */
function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const percent = new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
const decimal = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const share = (value) => (value > 0 && value < 0.001 ? "<0.1%" : percent.format(value));
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const list = (value) => (Array.isArray(value) ? value : []);
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const milliseconds = (ms) => (ms >= 100 ? `${Math.round(ms)} ms` : `${decimal.format(ms)} ms`);
const bytes = (size) =>
  size >= 1e6 ? `${decimal.format(size / 1e6)} MB` : size >= 1e3 ? `${decimal.format(size / 1e3)} kB` : `${size} bytes`;
const shorten = (text, limit) => (text.length > limit ? `${text.slice(0, limit)}…` : text);

// ---- Talking to the server ------------------------------------------------------------------------------------------

/** What the server refused, or why it could not be asked. */
class CallError extends Error {
  constructor(message, { status, code, requestId } = {}) {
    super(message);
    Object.assign(this, { status, code, requestId });
  }
}

/** The JSON of an answer; throws a CallError for anything but a success with a JSON object in it. */
function readAnswer(status, text, header) {
  let body = null;
  try {
    body = JSON.parse(text);
  } catch {
    // Not JSON: a proxy's own error page, most likely. It is reported below.
  }
  const requestId = body?.request_id ?? header("x-request-id") ?? undefined;
  if (status >= 200 && status < 300 && isObject(body)) return { body, requestId };
  const message = isObject(body) && body.error ? String(body.error) : shorten(text.trim(), 300) || "The answer was empty.";
  throw new CallError(message, { status, code: body?.code, requestId });
}

async function call(path, options) {
  const started = performance.now();
  let response, text;
  try {
    response = await fetch(path, options);
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new CallError("The server did not answer. Is it still running?");
  }
  const roundTrip = performance.now() - started;
  const answer = readAnswer(response.status, text, (name) => response.headers.get(name));
  return { ...answer, roundTrip, cache: response.headers.get("x-cache")?.toLowerCase() };
}

const callWithJson = (path, body, signal) =>
  call(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal });

/** POSTs a form with XMLHttpRequest, which reports progress where fetch does not. `onProgress` gets a share of 1. */
function upload(path, form, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    request.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable) onProgress(event.loaded / event.total);
    });
    request.upload.addEventListener("load", () => onProgress(1));
    request.addEventListener("load", () => {
      try {
        resolve(readAnswer(request.status, request.responseText, (name) => request.getResponseHeader(name)));
      } catch (error) {
        reject(error);
      }
    });
    request.addEventListener("error", () => {
      reject(new CallError("The connection broke before the server answered. Is the file over the server's size limit?"));
    });
    request.send(form);
  });
}

// ---- Showing answers and errors -------------------------------------------------------------------------------------

function showError(place, error) {
  const origin = [error.status && `HTTP ${error.status}`, error.code].filter(Boolean).join(" · ");
  const requestId = error.requestId && element("span", { className: "mono", textContent: error.requestId });
  place.replaceChildren(
    element(
      "div",
      { className: "error" },
      element("p", { className: "message", textContent: error.message }),
      origin || requestId
        ? element("p", { className: "origin" }, origin, requestId ? `${origin && " · "}request ` : "", requestId || null)
        : null,
    ),
  );
}

function facts(rows) {
  const terms = rows.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return element(
    "dl",
    { className: "facts" },
    ...terms.flatMap(([term, value]) => [
      element("dt", { textContent: term }),
      value instanceof Node ? element("dd", {}, value) : element("dd", { textContent: value }),
    ]),
  );
}

function bar({ label, index, confidence }) {
  const fill = element("span");
  fill.style.setProperty("--share", isNumber(confidence) ? Math.min(Math.max(confidence, 0), 1) : 0);
  const name = element("span", { className: "label" }, String(label ?? `class ${index ?? "?"}`));
  if (label !== undefined && index !== undefined) name.append(element("small", { textContent: `#${index}` }));
  return element(
    "li",
    {},
    name,
    element("span", { className: "value", textContent: isNumber(confidence) ? share(confidence) : "" }),
    element("span", { className: "track", ariaHidden: "true" }, fill),
  );
}

/** The one thing to say about an answer, if there is one: its label, or a prediction that is a single value. */
function headlineOf(body) {
  const first = body.predicted_label ?? body.label ?? body.prediction ?? body.predictions;
  let value = first;
  while (Array.isArray(value) && value.length === 1) value = value[0];
  return value === undefined || value === null || typeof value === "object" ? null : String(value);
}

const shownElsewhere = new Set(["predicted_label", "confidence", "top_k", "model_id", "version", "latency_ms", "request_id", "timestamp"]);

/** Shows an answer of `POST /predict`, whatever it holds, and returns the sentence to read out. */
function showAnswer(place, { body, requestId, roundTrip, cache }) {
  const headline = headlineOf(body);
  const confidence = isNumber(body.confidence) ? share(body.confidence) : "";
  const bars = list(body.top_k).filter(isObject);
  const others = Object.entries(body).filter(([key]) => !shownElsewhere.has(key));
  const mono = (text) => element("span", { className: "mono", textContent: text });
  const cacheBadge = cache && element("span", { className: cache === "hit" ? "badge good" : "badge", textContent: cache });
  cacheBadge?.setAttribute("data-cache", cache);

  place.replaceChildren(
    element(
      "div",
      { className: "answer" },
      headline === null
        ? null
        : element("p", { className: "headline" },
            element("strong", { textContent: headline }),
            confidence ? element("span", { textContent: confidence }) : null),
      bars.length
        // A long list scrolls, and the keyboard has to reach it for that.
        ? element("ol", { className: "bars", ariaLabel: "The most likely labels", tabIndex: bars.length > 8 ? 0 : -1 }, ...bars.map(bar))
        : null,
      facts([
        ...others.map(([key, value]) => [key, mono(shorten(JSON.stringify(value), 2000))]),
        ["Model", [body.model_id, body.version].filter((part) => part !== undefined && part !== null).join(" · ")],
        ["Latency", isNumber(body.latency_ms) ? `${milliseconds(body.latency_ms)} in the server` : null],
        ["Round trip", milliseconds(roundTrip)],
        ["Cache", cacheBadge],
        ["Request", requestId ? mono(String(requestId)) : null],
      ]),
      element("details", {},
        element("summary", { textContent: "Answer as JSON" }),
        element("pre", { tabIndex: 0, textContent: shorten(JSON.stringify(body, null, 2), 50_000) })),
    ),
  );
  place.hidden = false;
  return headline === null ? "The answer is here." : `${headline}${confidence && `, ${confidence}`}`;
}

/**
 * A place that shows the answer to the newest question only: asking again drops the one before. `ask` gets a signal and
 * resolves to an answer; the result is whether it came.
 */
function asker(prefix, submit) {
  const region = byId(`${prefix}-result`);
  const status = byId(`${prefix}-status`);
  const errorPlace = byId(`${prefix}-error`);
  const answerPlace = byId(`${prefix}-answer`);
  let current = null;

  const fail = (error) => {
    status.textContent = "";
    answerPlace.hidden = true;
    showError(errorPlace, error);
  };

  const run = async (ask) => {
    current?.abort();
    const mine = (current = new AbortController());
    region.setAttribute("aria-busy", "true");
    submit.setAttribute("aria-disabled", "true");
    errorPlace.replaceChildren();
    status.textContent = "Predicting…";
    try {
      const answer = await ask(mine.signal);
      if (current !== mine) return false;
      status.textContent = showAnswer(answerPlace, answer);
      status.classList.add("visually-hidden"); // The answer below says the same to those who see it.
      return true;
    } catch (error) {
      if (current === mine && error.name !== "AbortError") fail(error);
      return false;
    } finally {
      if (current === mine) {
        current = null;
        region.setAttribute("aria-busy", "false");
        submit.removeAttribute("aria-disabled");
      }
    }
  };

  return {
    fail,
    ask: (question) => {
      status.classList.remove("visually-hidden");
      return run(question);
    },
  };
}

// ---- Models ---------------------------------------------------------------------------------------------------------

/** The models as this page uses them. A field that the server leaves out gets a kind default. */
let models = [];

function readModel(raw) {
  const id = String(raw.id ?? raw.name ?? "");
  const version = String(raw.version ?? "");
  const tensors = (value) =>
    list(value).filter(isObject).map((tensor) => ({
      name: String(tensor.name ?? ""),
      datatype: String(tensor.datatype ?? tensor.dtype ?? "?"),
      shape: Array.isArray(tensor.shape) ? tensor.shape : null,
    }));
  const inputs = tensors(raw.info?.inputs);
  // The pipeline may come as a yes or no, a plugin's name, a list of names or an object of stages; absent is not "no".
  const stages = Object.values(isObject(raw.pipeline) || Array.isArray(raw.pipeline) ? raw.pipeline : [raw.pipeline]).filter(Boolean);
  const plugins = [...new Set(stages.filter((stage) => typeof stage === "string"))];
  const hasPipeline = raw.pipeline === undefined ? undefined : stages.length > 0;
  const takesPictures = inputs.length === 0 || inputs.some((input) => input.shape?.length === 4);
  return {
    id,
    version,
    key: JSON.stringify([id, version]),
    name: String(raw.name ?? id),
    pipeline: hasPipeline ? plugins.join(", ") || "pipeline" : null,
    isDefault: Boolean(raw.default_image_model),
    // A picture needs a pipeline that decodes it; where the server does not say, the shape decides.
    forImages: Boolean(raw.default_image_model) || (takesPictures && hasPipeline !== false),
    inputs,
    outputs: tensors(raw.info?.outputs),
  };
}

const shapeText = (shape) => (shape ? `[${shape.map((size) => (size === null ? -1 : size)).join(", ")}]` : "");

function tensorRows(term, tensors) {
  return tensors.flatMap((tensor, position) => [
    element("dt", { textContent: position === 0 ? term : "" }),
    element("dd", { className: "mono" },
      tensor.name, " ", element("span", { textContent: `${tensor.datatype} ${shapeText(tensor.shape)}` })),
  ]);
}

function modelRow(model, fresh) {
  const badges = [
    model.isDefault ? element("span", { className: "badge accent", textContent: "default for images" }) : null,
    model.pipeline ? element("span", { className: "badge", textContent: model.pipeline }) : null,
  ].filter(Boolean);
  const tryIt = element("button", { type: "button", className: "quiet" },
    "Try it", element("span", { className: "visually-hidden", textContent: `: ${model.name}, version ${model.version}` }));
  tryIt.addEventListener("click", () => tryModel(model));
  const row = element(
    "li",
    { className: fresh ? "fresh" : "" },
    element("div", { className: "who" },
      element("div", {},
        element("p", { className: "name", textContent: model.name }),
        element("p", { className: "ids mono", textContent: model.version ? `${model.id} · ${model.version}` : model.id }),
        badges.length ? element("p", { className: "badges" }, ...badges) : null),
      tryIt),
    model.inputs.length + model.outputs.length
      ? element("dl", {}, ...tensorRows("in", model.inputs), ...tensorRows("out", model.outputs))
      : null,
  );
  row.dataset.id = model.id;
  row.dataset.version = model.version;
  return row;
}

function tryModel(model) {
  const [select, field] = model.forImages
    ? [byId("image-model"), byId("image-url")]
    : [byId("features-model"), byId("features")];
  // An id with one version stands in the choice for images under its id alone.
  select.value = model.key;
  if (select.selectedIndex === -1) select.value = JSON.stringify([model.id, null]);
  if (!model.forImages) prefillFeatures();
  field.focus();
}

/** Puts options into a select and keeps what was chosen, where it is still there. */
function fillSelect(select, options, chosen = select.value) {
  select.replaceChildren(...options.map(([value, textContent]) => element("option", { value, textContent })));
  select.value = chosen;
  if (select.selectedIndex === -1) select.selectedIndex = 0;
}

function fillImageModels() {
  const standard = models.find((model) => model.isDefault);
  const options = [["", standard ? `Default: ${standard.id}` : "Default"]];
  for (const [id, versions] of Map.groupBy(models.filter((model) => model.forImages), (model) => model.id)) {
    options.push([JSON.stringify([id, null]), id]);
    if (versions.length > 1) options.push(...versions.map((model) => [model.key, `${id}, version ${model.version}`]));
  }
  fillSelect(byId("image-model"), options);
}

/** Loads and shows the models. `fresh` is the id and version of one just uploaded, to be marked and chosen. */
async function loadModels(fresh) {
  const region = byId("models-list");
  try {
    const { body } = await call("models");
    models = list(body.models).filter(isObject).map(readModel);
  } catch (error) {
    byId("models-empty").hidden = true;
    showError(byId("models-error"), error);
    return;
  }
  const isFresh = (model) => fresh && model.id === fresh.id && (!fresh.version || model.version === fresh.version);
  const freshModel = models.find(isFresh);
  byId("models-error").replaceChildren();
  byId("models-count").textContent = models.length;
  byId("models-empty").hidden = models.length > 0;
  region.replaceChildren(...models.map((model) => modelRow(model, isFresh(model))));
  const freshRow = region.querySelector(".fresh");
  if (freshRow) region.scrollTop = freshRow.offsetTop - region.offsetTop;

  fillImageModels();
  const select = byId("features-model");
  const before = select.value;
  // What was chosen stays; the first choice is a model that features can be typed for.
  const wanted = fresh?.choose && freshModel ? freshModel.key : before || models.find((model) => !model.forImages)?.key;
  fillSelect(select, models.map((model) => [model.key, `${model.id}${model.version && `, version ${model.version}`}`]), wanted);
  if (select.value !== before) prefillFeatures();
}

// ---- Predict an image -----------------------------------------------------------------------------------------------

const imageForm = byId("image-form");
const imageUrl = byId("image-url");
const picture = byId("image-picture");
const imageAsker = asker("image", byId("image-submit"));
let imageFile = null;

function chooseImageFile(file) {
  imageFile = file;
  byId("image-chosen").hidden = !file;
  byId("image-chosen-name").textContent = file ? `${file.name || "Pasted picture"} · ${bytes(file.size)}` : "";
  if (file) imageUrl.value = "";
  else byId("image-file").value = "";
}

function predictImageFile(file) {
  chooseImageFile(file);
  imageForm.requestSubmit();
}

function showPicture(source) {
  if (picture.src.startsWith("blob:")) URL.revokeObjectURL(picture.src);
  picture.hidden = false;
  picture.alt = "The picture that was sent";
  picture.src = typeof source === "string" ? source : URL.createObjectURL(source);
  byId("image-picture-note").hidden = true;
  byId("image-figure").hidden = false;
  byId("image-empty").hidden = true;
}

picture.addEventListener("error", () => {
  picture.hidden = true;
  byId("image-picture-note").hidden = false;
});

/** The question as the server wants it: JSON for a URL, a multipart form for a file. */
function imageQuestion() {
  const topK = byId("image-top-k").valueAsNumber;
  const chosen = byId("image-model").value;
  const [model_id, version] = chosen ? JSON.parse(chosen) : [];
  const which = { ...(model_id && { model_id }), ...(version && { version }) };
  if (!imageFile) {
    const body = { image_url: imageUrl.value.trim(), ...which, top_k: topK };
    return (signal) => callWithJson("predict", body, signal);
  }
  const form = new FormData();
  for (const [name, value] of Object.entries(which)) form.append(name, value);
  form.append("top_k", topK);
  form.append("image", imageFile, imageFile.name || "picture");
  return (signal) => call("predict", { method: "POST", body: form, signal });
}

imageForm.addEventListener("submit", async (event) => {
  event.preventDefault();
  const source = imageFile ?? imageUrl.value.trim();
  byId("image-empty").hidden = true;
  if (!source) {
    byId("image-figure").hidden = true;
    imageAsker.fail(new CallError("Give the URL of a picture, or choose a file."));
    imageUrl.focus();
    return;
  }
  showPicture(source);
  await imageAsker.ask(imageQuestion());
  // A picture beside an error would look like a result.
  byId("image-figure").hidden = byId("image-error").childElementCount > 0;
});

imageUrl.addEventListener("input", () => imageUrl.value && chooseImageFile(null));
byId("image-clear").addEventListener("click", () => {
  chooseImageFile(null);
  byId("image-file").focus();
});
byId("image-file").addEventListener("change", ({ target }) => target.files[0] && predictImageFile(target.files[0]));

const drop = byId("drop");
// Anywhere on the page: a picture dropped beside the box must not make the browser leave the page for it. A file input
// takes its own drops.
const takesDrop = (event) => !event.target.closest?.("input[type=file]:not(.visually-hidden), textarea, input[type=text]");
document.addEventListener("dragover", (event) => {
  if (!takesDrop(event)) return;
  event.preventDefault();
  drop.classList.add("over");
});
document.addEventListener("dragleave", (event) => event.relatedTarget === null && drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  drop.classList.remove("over");
  if (!takesDrop(event)) return;
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  const [url] = event.dataTransfer.getData("text/uri-list").split(/\r?\n/).filter((line) => line && !line.startsWith("#"));
  if (file) predictImageFile(file);
  else if (url) {
    chooseImageFile(null);
    imageUrl.value = url;
    imageForm.requestSubmit();
  }
});
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((file) => file.type.startsWith("image/"));
  if (!file) return;
  event.preventDefault();
  predictImageFile(file);
});

// ---- Predict from features ------------------------------------------------------------------------------------------

const features = byId("features");
const featuresAsker = asker("features", byId("features-submit"));
const mostZeros = 4096; // More than this nobody types, and a text field of megabytes makes a page slow.

const chosenModel = () => models.find((model) => model.key === byId("features-model").value);
const sizes = (input) => (input.shape ?? [1]).map((size) => (isNumber(size) && size > 0 ? size : 1));
const elements = (input) => sizes(input).reduce((product, size) => product * size, 1);
const zeroOf = (datatype) => ({ BYTES: "", BOOL: false })[datatype] ?? 0;

function zeros(dimensions, zero) {
  if (dimensions.length === 0) return zero;
  return Array.from({ length: dimensions[0] }, () => zeros(dimensions.slice(1), zero));
}

const compact = (values) => JSON.stringify(values).replaceAll(",", ", ");

function prefillFeatures() {
  const model = chosenModel();
  const inputs = model?.inputs ?? [];
  const hint = byId("features-hint");
  const total = inputs.reduce((sum, input) => sum + elements(input), 0);
  features.value = "";
  if (inputs.length === 0) {
    hint.textContent = model ? "The server does not say what this model takes. An array goes out as features, an object as inputs." : "";
  } else if (total > mostZeros) {
    hint.textContent = `Takes ${total.toLocaleString("en")} values, too many to type.${model.forImages ? " Predict an image above." : ""}`;
  } else if (inputs.length === 1) {
    const [input] = inputs;
    // One row of a table is written without the brackets of the batch around it.
    const dimensions = input.shape?.length === 2 && sizes(input)[0] === 1 ? sizes(input).slice(1) : sizes(input);
    const values = zeros(dimensions, zeroOf(input.datatype));
    features.value = compact(Array.isArray(values) ? values : [values]);
    hint.textContent = `${input.name || "Input"}: ${input.datatype} ${shapeText(input.shape)}`;
  } else {
    const lines = inputs.map((input) => `  ${JSON.stringify(input.name)}: ${compact(zeros(sizes(input), zeroOf(input.datatype)))}`);
    features.value = `{\n${lines.join(",\n")}\n}`;
    hint.textContent = "One entry for each input.";
  }
}

byId("features-model").addEventListener("change", prefillFeatures);
byId("features-form").addEventListener("submit", (event) => {
  event.preventDefault();
  features.removeAttribute("aria-invalid");
  let values = null;
  let problem = "Expected a JSON array, or an object with an entry for each input.";
  try {
    values = JSON.parse(features.value);
  } catch (error) {
    problem = `This is not JSON yet: ${error.message}`;
  }
  if (values === null || typeof values !== "object") {
    features.setAttribute("aria-invalid", "true");
    featuresAsker.fail(new CallError(problem));
    features.focus();
    return;
  }
  const [model_id, version] = JSON.parse(byId("features-model").value);
  const body = { model_id, ...(version && { version }), ...(Array.isArray(values) ? { features: values } : { inputs: values }) };
  featuresAsker.ask((signal) => callWithJson("predict", body, signal));
});

// ---- Upload ---------------------------------------------------------------------------------------------------------

/** Wires an upload form: `toForm` makes the multipart form, `onDone` gets the answer and returns the sentence to show. */
function uploadForm(prefix, path, toForm, onDone) {
  const form = byId(`${prefix}-form`);
  const submit = byId(`${prefix}-submit`);
  const status = byId(`${prefix}-status`);
  const progress = byId(`${prefix}-progress`);
  const meter = progress.firstElementChild;
  let busy = false;

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (busy) return;
    busy = true;
    submit.setAttribute("aria-disabled", "true");
    byId(`${prefix}-error`).replaceChildren();
    status.classList.remove("good");
    status.textContent = "Uploading…";
    meter.value = 0;
    progress.hidden = false;
    try {
      const answer = await upload(path, toForm(), (done) => {
        meter.value = done * 100;
        if (done === 1) status.textContent = "Uploaded. The server is checking the model…";
      });
      status.textContent = await onDone(answer.body);
      status.classList.add("good");
      form.reset();
    } catch (error) {
      status.textContent = "";
      showError(byId(`${prefix}-error`), error);
    } finally {
      busy = false;
      progress.hidden = true;
      submit.removeAttribute("aria-disabled");
    }
  });
}

/** A multipart form with the fields first, so that a server that reads it as it comes knows whose file follows. */
function multipart(fields, files) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  for (const [name, input] of Object.entries(files)) if (input.files[0]) form.append(name, input.files[0]);
  return form;
}

uploadForm(
  "upload",
  "upload",
  () => multipart({}, { labels: byId("upload-labels"), model: byId("upload-model") }),
  async ({ model, model_id, version, labels }) => {
    const id = model_id ?? model?.id ?? (typeof model === "string" ? model : undefined);
    const count = isNumber(labels) ? labels : isObject(labels) || Array.isArray(labels) ? Object.keys(labels).length : null;
    byId("image-model").value = "";
    await loadModels({ id, version: version ?? model?.version });
    return `${id ?? "The model"} is now the default for pictures${count === null ? "" : `, with ${count.toLocaleString("en")} labels`}.`;
  },
);

uploadForm(
  "add",
  "models/upload",
  () => {
    const id = byId("add-id").value.trim();
    const fields = { id, name: byId("add-name").value.trim() || id, version: byId("add-version").value.trim() };
    return multipart(fields, { labels: byId("add-labels"), file: byId("add-file") });
  },
  async ({ model }) => {
    const id = model?.id ?? byId("add-id").value.trim();
    const version = String(model?.version ?? byId("add-version").value.trim());
    await loadModels({ id, version, choose: true });
    return `${id}, version ${version}, is being served.`;
  },
);

byId("add-file").addEventListener("change", ({ target }) => {
  const id = byId("add-id");
  const stem = (target.files[0]?.name ?? "").replace(/\.onnx$/i, "").replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+/, "");
  if (!id.value && stem !== "model") id.value = stem.slice(0, 128);
});

byId("models-refresh").addEventListener("click", () => loadModels());
loadModels();
