// The models: read from the server, listed, and told to whoever offers them for choice.

import { announcer, byId, call, element, inOrder, isObject, list, showError } from "./common.js";

/** The models as this page uses them. A field that the server leaves out gets a kind default. */
export let models = [];

const changes = announcer();

/** Calls a function each time the models were loaded; it gets what `loadModels` got. */
export const whenModelsLoad = changes.listen;

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
  const pipeline = isObject(raw.pipeline) ? raw.pipeline : {};
  const takesPictures = inputs.some((input) => input.shape?.length === 4);
  return {
    id,
    version,
    key: JSON.stringify([id, version]),
    name: String(raw.name ?? id),
    /** The plugin of each stage, as name@version. */
    preprocess: pipeline.preprocess ?? null,
    postprocess: pipeline.postprocess ?? null,
    isDefault: Boolean(raw.default_image_model),
    state: String(raw.state ?? ""),
    // A picture needs a plugin that decodes it.
    forImages: Boolean(raw.default_image_model) || (takesPictures && Boolean(pipeline.preprocess)),
    inputs,
    outputs: tensors(raw.info?.outputs),
  };
}

export const shapeText = (shape) => (shape ? `[${shape.map((size) => (size === null ? -1 : size)).join(", ")}]` : "");

function tensorRows(term, tensors) {
  return tensors.flatMap((tensor, position) => [
    element("dt", { textContent: position === 0 ? term : "" }),
    element("dd", { className: "mono" },
      tensor.name, " ", element("span", { textContent: `${tensor.datatype} ${shapeText(tensor.shape)}` })),
  ]);
}

function modelRow(model, fresh) {
  const badges = [
    model.state && model.state !== "ready" ? element("span", { className: model.state === "failed" ? "badge bad" : "badge", textContent: model.state }) : null,
    model.isDefault ? element("span", { className: "badge accent", textContent: "default for images" }) : null,
    ...[...new Set([model.preprocess, model.postprocess])].map((plugin) => plugin && element("span", { className: "badge", textContent: plugin })),
  ].filter(Boolean);
  const button = (action, text) => {
    const node = element("button", { type: "button", className: "quiet" },
      text, element("span", { className: "visually-hidden", textContent: `: ${model.name}, version ${model.version}` }));
    node.dataset.action = action;
    return node;
  };
  const row = element(
    "li",
    { className: fresh ? "fresh" : "" },
    element("div", { className: "who" },
      element("div", {},
        element("p", { className: "name", textContent: model.name }),
        element("p", { className: "ids mono", textContent: model.version ? `${model.id} · ${model.version}` : model.id }),
        badges.length ? element("p", { className: "badges" }, ...badges) : null),
      element("div", { className: "buttons" }, button("try", "Try it"), button("versions", "Versions"), button("pipeline", "Pipeline"))),
    model.inputs.length + model.outputs.length
      ? element("dl", {}, ...tensorRows("in", model.inputs), ...tensorRows("out", model.outputs))
      : null,
  );
  row.dataset.id = model.id;
  row.dataset.version = model.version;
  return row;
}

/** Calls a function with a model when the button of that name in its row is pressed. */
export function whenModelButton(action, act) {
  byId("models-list").addEventListener("click", ({ target }) => {
    const button = target.closest(`button[data-action="${action}"]`);
    const row = button?.closest("li");
    const model = row && models.find(({ id, version }) => id === row.dataset.id && version === row.dataset.version);
    if (model) act(model);
  });
}

/** Loads and shows the models. `fresh` is the id and version of one just uploaded, to be marked and chosen. */
export async function loadModels(fresh) {
  const region = byId("models-list");
  try {
    const { body } = await call("models");
    models = list(body.models).filter(isObject).map(readModel);
    models.sort((one, other) => inOrder(one.id, other.id) || inOrder(one.version, other.version));
  } catch (error) {
    byId("models-empty").hidden = true;
    showError(byId("models-error"), error);
    return;
  }
  const isFresh = (model) => fresh && model.id === fresh.id && (!fresh.version || model.version === fresh.version);
  byId("models-error").replaceChildren();
  byId("models-count").textContent = models.length;
  byId("models-empty").hidden = models.length > 0;
  region.replaceChildren(...models.map((model) => modelRow(model, isFresh(model))));
  const freshRow = region.querySelector(".fresh");
  if (freshRow) region.scrollTop = freshRow.offsetTop - region.offsetTop;
  changes.tell(fresh && { ...fresh, model: models.find(isFresh) });
}
