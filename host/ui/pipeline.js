// A model's pipeline: what is bound to it, and the form that binds and unbinds plugins.

import { byId, call, CallError, element, fillSelect, folded, isObject, jsonBody, list, showError } from "./common.js";
import { loadModels, models, whenModelButton, whenModelsLoad } from "./models.js";
import { plugins, whenPluginsLoad } from "./plugins.js";

const stages = ["preprocess", "postprocess"];
const modelSelect = byId("pipeline-model");
const form = byId("pipeline-form");
const golden = byId("pipeline-golden");
const same = byId("postprocess-same");
const sameField = byId("postprocess-same-field");

const pluginOf = (stage) => byId(`${stage}-plugin`);
const configOf = (stage) => byId(`${stage}-config`);
const failureOf = (stage) => byId(`${stage}-failure`);

/** Whether postprocess takes what preprocess has, which only a plugin of both stages offers. */
const isShared = () => same.checked && !sameField.hidden;

/** What the form was filled for, as the select has it, and the question that is under way. */
let filledFor = null;
let newestQuestion = 0;

const pretty = (value) => (value === undefined ? "" : JSON.stringify(value, null, 2));

/** The address of the chosen model's pipeline: of one version, or of all. */
function pathOf(chosen) {
  const [id, version] = JSON.parse(chosen);
  return `models/${encodeURIComponent(id)}/pipeline${version === null ? "" : `?${new URLSearchParams({ version })}`}`;
}

// ---- What is bound --------------------------------------------------------------------------------------------------

const triedWith = {
  binding: "the golden request of the binding",
  plugin: "the plugin's own golden request",
  zeros: "inputs of zeros",
  none: "nothing: there is no golden request, so preprocess has not run yet",
};

function boundStage({ pipeline, init: inits }, stage) {
  const binding = pipeline?.[stage];
  if (!isObject(binding)) return null;
  const init = inits?.[stage] === "snapshot" ? "once, then copied from a snapshot" : `in ${inits?.[stage]}`;
  return element("div", {},
    element("p", {}, element("span", { className: "stage", textContent: `${stage} ` }), element("span", { className: "mono", textContent: binding.plugin })),
    element("p", { className: "hint", textContent: `On failure: ${binding.on_failure ?? "fail"}. Init: ${init}.` }),
    binding.config ? folded("Configuration", binding.config) : null);
}

/** One version of the answer to GET, PUT or DELETE. */
function boundVersion(bound) {
  const shown = stages.map((stage) => boundStage(bound, stage)).filter(Boolean);
  const hint = (textContent) => element("p", { className: "hint", textContent });
  return element(
    "div",
    { className: "bound" },
    element("p", { className: "name", textContent: `Version ${bound.version}` }),
    shown.length
      ? element("div", { className: "halves" }, ...shown)
      : hint("No plugins: the model takes features and answers with its outputs."),
    shown.length && bound.golden ? hint(`Tried with ${triedWith[bound.golden] ?? bound.golden}.`) : null,
  );
}

function showBound(answer) {
  byId("pipeline-now").replaceChildren(...list(answer.versions).filter(isObject).map(boundVersion));
}

// ---- The form -------------------------------------------------------------------------------------------------------

/** Offers the plugins that have the stage; what is chosen stays, also where this page does not know it. */
function fillPlugins(stage, chosen = pluginOf(stage).value) {
  const fitting = plugins.filter((plugin) => list(plugin.stages).includes(stage)).map((plugin) => plugin.reference);
  if (chosen && !fitting.includes(chosen)) fitting.push(chosen);
  fillSelect(pluginOf(stage), [["", "None"], ...fitting.map((reference) => [reference, reference])], chosen);
}

/** Shows the fields that what is chosen needs, and the schema of each chosen plugin's configuration. */
function arrange() {
  const before = plugins.find((plugin) => plugin.reference === pluginOf("preprocess").value);
  sameField.hidden = !list(before?.stages).includes("postprocess");
  for (const part of ["plugin", "config"]) byId(`postprocess-${part}-field`).hidden = isShared();
  for (const stage of stages) {
    const chosen = pluginOf(stage).value;
    const schema = plugins.find((plugin) => plugin.reference === chosen)?.config_schema;
    const takesOther = stage === "postprocess" && isShared();
    const isShown = isObject(schema) && !takesOther;
    byId(`${stage}-schema`).replaceChildren(...(isShown ? [folded("Schema of the configuration", schema)] : []));
    configOf(stage).disabled = failureOf(stage).disabled = !chosen && !takesOther;
  }
}

function fillForm(pipeline) {
  for (const stage of stages) {
    const binding = isObject(pipeline?.[stage]) ? pipeline[stage] : {};
    fillPlugins(stage, binding.plugin ?? "");
    configOf(stage).value = pretty(binding.config);
    failureOf(stage).value = binding.on_failure ?? "fail";
  }
  const [before, after] = stages.map((stage) => JSON.stringify([pluginOf(stage).value, configOf(stage).value]));
  same.checked = before === after && pluginOf("preprocess").value !== "";
  golden.value = pretty(pipeline?.golden);
  arrange();
}

/** The typed JSON of a field as it was typed, so that no number changes on the way; undefined for an empty one. */
function typed(field, title, isFit = () => true, expected = "") {
  field.removeAttribute("aria-invalid");
  const text = field.value.trim();
  if (!text) return undefined;
  let problem = expected;
  try {
    if (isFit(JSON.parse(text))) return text;
  } catch (error) {
    problem = `this is not JSON yet: ${error.message}`;
  }
  field.setAttribute("aria-invalid", "true");
  field.focus();
  throw new CallError(`${title}: ${problem}`);
}

const objectOf = (fields) =>
  `{${fields.filter(([, json]) => json !== undefined).map(([name, json]) => `${JSON.stringify(name)}:${json}`).join(",")}}`;

function stageJson(stage) {
  const source = stage === "postprocess" && isShared() ? "preprocess" : stage;
  if (!pluginOf(source).value) return undefined;
  const title = `The configuration of ${source}`;
  return objectOf([
    ["plugin", JSON.stringify(pluginOf(source).value)],
    ["config", typed(configOf(source), title, isObject, "expected a JSON object.")],
    ["on_failure", JSON.stringify(failureOf(stage).value)],
  ]);
}

/** The body of the PUT. Throws a CallError where a field holds what is no JSON. */
function pipelineJson() {
  const bound = stages.map((stage) => [stage, stageJson(stage)]);
  if (bound.every(([, json]) => json === undefined)) throw new CallError("Choose a plugin for a stage, or unbind.");
  return objectOf([...bound, ["golden", typed(golden, "The golden request")]]);
}

/**
 * Asks about the chosen model's pipeline, or to change it, and shows what is bound then. Only the newest question is heard;
 * while one changes something, no other can be asked.
 */
async function ask(options, doing, onAnswer) {
  if (!modelSelect.value) return;
  const question = ++newestQuestion;
  const chosen = modelSelect.value;
  const status = byId("pipeline-status");
  const buttons = [byId("pipeline-bind"), byId("pipeline-unbind")];
  modelSelect.disabled = options !== undefined;
  byId("pipeline-error").replaceChildren();
  status.classList.remove("good");
  status.textContent = doing;
  buttons.forEach((button) => button.setAttribute("aria-disabled", "true"));
  try {
    const { body } = await call(pathOf(chosen), options?.());
    if (question !== newestQuestion) return;
    showBound(body);
    status.textContent = await onAnswer(body);
    status.classList.add("good");
  } catch (error) {
    if (question !== newestQuestion) return;
    status.textContent = "";
    showError(byId("pipeline-error"), error);
  } finally {
    if (question === newestQuestion) {
      buttons.forEach((button) => button.removeAttribute("aria-disabled"));
      modelSelect.disabled = false;
    }
  }
}

/** Shows what is bound to the chosen model, and fills the form with it: with the newest version's, where they differ. */
function showChosen() {
  filledFor = modelSelect.value;
  const hint = byId("pipeline-hint");
  hint.hidden = true;
  byId("pipeline-now").replaceChildren();
  return ask(undefined, "", ({ versions }) => {
    const pipelines = list(versions).map(({ pipeline }) => pipeline);
    fillForm(pipelines.at(-1));
    hint.hidden = new Set(pipelines.map((pipeline) => JSON.stringify(pipeline))).size < 2;
    hint.textContent = `The versions differ. The form holds what version ${list(versions).at(-1)?.version} has.`;
    return "";
  });
}

const isBusy = () => byId("pipeline-bind").hasAttribute("aria-disabled");

/** Shows what is bound now, and leaves the form as it is. */
const lookAgain = () => isBusy() || ask(undefined, "", () => "");

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (isBusy()) return;
  ask(() => ({ method: "PUT", ...jsonBody(pipelineJson()) }), "Binding, and trying it…", async ({ model_id }) => {
    await loadModels();
    return `Bound. ${model_id} serves with it.`;
  });
});

byId("pipeline-unbind").addEventListener("click", () => {
  if (isBusy()) return;
  // The form keeps what it holds: Bind puts it back.
  ask(() => ({ method: "DELETE" }), "Unbinding…", async ({ model_id }) => {
    await loadModels();
    return `Unbound. ${model_id} serves without plugins.`;
  });
});

modelSelect.addEventListener("change", showChosen);
for (const refresh of ["models-refresh", "plugins-refresh"]) byId(refresh).addEventListener("click", lookAgain);
for (const field of [...stages.map(pluginOf), same]) field.addEventListener("change", arrange);

whenModelsLoad((fresh) => {
  const options = [];
  for (const [id, versions] of Map.groupBy(models, (model) => model.id)) {
    options.push([JSON.stringify([id, null]), versions.length > 1 ? `${id}, all versions` : id]);
    if (versions.length > 1) options.push(...versions.map((model) => [model.key, `${id}, version ${model.version}`]));
  }
  fillSelect(modelSelect, options);
  if (modelSelect.value !== filledFor) showChosen();
  else if (fresh && JSON.parse(filledFor)[0] === fresh.id) lookAgain();
});

whenPluginsLoad(() => {
  for (const stage of stages) fillPlugins(stage);
  arrange();
});

whenModelButton("pipeline", (model) => {
  byId("pipeline").scrollIntoView();
  if (modelSelect.disabled) return; // The section says what it is doing.
  modelSelect.value = model.key;
  if (modelSelect.selectedIndex === -1) modelSelect.value = JSON.stringify([model.id, null]);
  modelSelect.focus({ preventScroll: true });
  showChosen();
});
