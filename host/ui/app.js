// The page: predictions of pictures and of features, and uploads of models. What the modules share is in common.js.

import { asker } from "./answer.js";
import { byId, bytes, CallError, fillSelect, isNumber, isObject, jsonBody, multipart, predict, uploadForm } from "./common.js";
import { checkHealth } from "./health.js";
import { loadModels, models, shapeText, whenModelButton, whenModelsLoad } from "./models.js";
import "./pipeline.js";
import "./plugins.js";
import "./versions.js";

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

whenModelButton("try", tryModel);

function fillImageModels() {
  const standard = models.find((model) => model.isDefault);
  const options = [["", standard ? `Default: ${standard.id}` : "Default"]];
  for (const [id, versions] of Map.groupBy(models.filter((model) => model.forImages), (model) => model.id)) {
    options.push([JSON.stringify([id, null]), id]);
    if (versions.length > 1) options.push(...versions.map((model) => [model.key, `${id}, version ${model.version}`]));
  }
  fillSelect(byId("image-model"), options);
}

/** What the form for features asks for depends on the model and its plugin; a change of either empties it. */
let prefilledFor = "";

whenModelsLoad((fresh) => {
  fillImageModels();
  const select = byId("features-model");
  // What was chosen stays; the first choice is a model that features can be typed for.
  const wanted = (fresh?.choose && fresh.model?.key) || select.value || models.find((model) => !model.forImages && model.state !== "failed")?.key;
  fillSelect(select, models.map((model) => [model.key, `${model.id}${model.version && `, version ${model.version}`}`]), wanted);
  const model = chosenModel();
  if (prefilledFor !== JSON.stringify([model?.key, model?.preprocess])) prefillFeatures();
});

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
    return (signal) => predict("", { ...jsonBody(JSON.stringify(body)), signal });
  }
  const form = new FormData();
  for (const [name, value] of Object.entries(which)) form.append(name, value);
  form.append("top_k", topK);
  form.append("image", imageFile, imageFile.name || "picture");
  return (signal) => predict("", { body: form, signal });
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
  prefilledFor = JSON.stringify([model?.key, model?.preprocess]);
  features.value = "";
  features.removeAttribute("aria-invalid");
  byId("request-file").value = "";
  byId("request-file-field").hidden = !model?.preprocess;
  byId("features-label").textContent = model?.preprocess ? "Request, as JSON" : "Features, as JSON";
  if (model?.preprocess) {
    const takes = inputs.map((input) => `${input.name} ${input.datatype} ${shapeText(input.shape)}`).join(", ");
    hint.textContent =
      `Goes to ${model.preprocess} as it is. An object with features or inputs goes past it, to the model itself: ${takes}.` +
      (model.forImages ? " Predict an image above." : "");
  } else if (inputs.length === 0) {
    hint.textContent = model ? "The server does not say what this model takes. An array goes out as features, an object as inputs." : "";
  } else if (total > mostZeros) {
    hint.textContent = `Takes ${total.toLocaleString("en")} values, too many to type.`;
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
  const question = chosenModel()?.preprocess ? pluginQuestion() : featuresQuestion();
  if (question) featuresAsker.ask(question);
});

/** What was typed, as a value; null if it is no JSON or not what `isFit` wants, which is shown then. */
function typedJson(isFit, expected) {
  let problem = expected;
  try {
    const value = JSON.parse(features.value);
    if (isFit(value)) return value;
  } catch (error) {
    problem = `This is not JSON yet: ${error.message}`;
  }
  features.setAttribute("aria-invalid", "true");
  featuresAsker.fail(new CallError(problem));
  features.focus();
  return null;
}

function featuresQuestion() {
  const [model_id, version] = JSON.parse(byId("features-model").value);
  const isFit = (value) => Array.isArray(value) || isObject(value);
  const values = typedJson(isFit, "Expected a JSON array, or an object with an entry for each input.");
  if (values === null) return null;
  const body = { model_id, ...(version && { version }), ...(Array.isArray(values) ? { features: values } : { inputs: values }) };
  return (signal) => predict("", { ...jsonBody(JSON.stringify(body)), signal });
}

/** A request for a plugin to read: nothing is added to it, so the model is named beside it. */
function pluginQuestion() {
  const [model_id, version] = JSON.parse(byId("features-model").value);
  const which = { model_id, ...(version && { version }) };
  const file = byId("request-file");
  if (file.files[0]) {
    const body = multipart(which, { file });
    return (signal) => predict("", { body, signal });
  }
  if (typedJson((value) => value !== null, "Expected a request, not null.") === null) return null;
  const options = jsonBody(features.value);
  return (signal) => predict(`?${new URLSearchParams(which)}`, { ...options, signal });
}

// ---- Upload a model -------------------------------------------------------------------------------------------------

uploadForm(
  "upload",
  "upload",
  "model",
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
  "model",
  () => {
    const id = byId("add-id").value.trim();
    const fields = { id, name: byId("add-name").value.trim() || id, version: byId("add-version").value.trim() };
    return multipart(fields, { labels: byId("add-labels"), data: byId("add-data"), file: byId("add-file") });
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
  const stem = (target.files[0]?.name ?? "").replace(/\.(onnx|zip|tgz|tar\.gz)$/i, "").replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+/, "");
  if (!id.value && stem !== "model") id.value = stem.slice(0, 128);
});

byId("models-refresh").addEventListener("click", () => loadModels());
whenModelsLoad(checkHealth);
loadModels();
