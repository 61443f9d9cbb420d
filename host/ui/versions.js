// A model's versions: which are loaded, which answers, what they cost; loaded, unloaded and deleted from here.

import { byId, bytes, call, element, facts, fillSelect, inOrder, isNumber, isObject, list, showError } from "./common.js";
import { loadModels, models, whenModelButton, whenModelsLoad } from "./models.js";
import { hideTraffic, sharesOf, showTraffic, whenTrafficChanges } from "./traffic.js";

const second = 1000;
const modelSelect = byId("versions-model");
const region = byId("versions-list");
const status = byId("versions-status");

let newestQuestion = 0;
let isBusy = false;
let timer;
/** The version that was just changed, whose button gets the focus again. */
let changed = null;

const pathOf = (id, ...rest) => ["models", id, ...rest].map(encodeURIComponent).join("/");

// ---- The list -------------------------------------------------------------------------------------------------------

const stateBadges = { ready: "badge good", loading: "badge accent", failed: "badge bad" };

/** What the traffic rule has a version do, as short texts. */
function roles(version, traffic) {
  const shares = sharesOf(traffic.weights);
  const drawn = shares.find(([drawn]) => drawn === version.version);
  const shadow = traffic.shadow?.version === version.version ? traffic.shadow : null;
  return [
    version.default && shares.length === 0 && "default",
    drawn && `${drawn[1]} of the traffic`,
    shadow && (shadow.fraction < 1 ? `shadow of ${Math.round(shadow.fraction * 1000) / 10}%` : "shadow"),
  ].filter(Boolean);
}

function versionRow(id, version, traffic) {
  const state = String(version.state ?? "");
  const button = (action, text) => {
    const node = element("button", { type: "button", className: "quiet" },
      text, element("span", { className: "visually-hidden", textContent: ` version ${version.version}` }));
    node.dataset.action = action;
    node.addEventListener("click", () => actions[action](id, version.version, node));
    return node;
  };
  const uploaded = new Date(version.uploaded_at ?? NaN);
  const row = element(
    "li",
    {},
    element("div", { className: "who" },
      element("div", {},
        element("p", { className: "name", textContent: `Version ${version.version}` }),
        element("p", { className: "badges" },
          element("span", { className: stateBadges[state] ?? "badge", textContent: state }),
          ...roles(version, traffic).map((role) => element("span", { className: "badge accent", textContent: role })))),
      element("div", { className: "buttons" },
        ["ready", "loading"].includes(state) ? button("unload", "Unload") : button("load", "Load"),
        button("delete", "Delete"))),
    facts([
      ["Why", version.reason],
      ["Memory", isNumber(version.memory_bytes) ? bytes(version.memory_bytes) : null],
      ["Size", isNumber(version.size) ? bytes(version.size) : null],
      ["Uploaded", Number.isNaN(uploaded.getTime()) ? null : uploaded.toLocaleString()],
    ]),
  );
  row.dataset.version = version.version;
  return row;
}

function showVersions(id, versions, traffic) {
  region.replaceChildren(...versions.map((version) => versionRow(id, version, traffic)));
  if (!changed) return;
  // The button that had the focus went with its row.
  const row = [...region.children].find((row) => row.dataset.version === changed);
  (row?.querySelector("button") ?? byId("versions-title")).focus({ preventScroll: true });
  changed = null;
}

/** Asks for the chosen model's versions and traffic. Only the newest question is heard. */
async function look() {
  clearTimeout(timer);
  const question = ++newestQuestion;
  const id = modelSelect.value;
  byId("versions-delete").hidden = !id;
  byId("versions-empty").hidden = Boolean(id);
  if (!id) {
    region.replaceChildren();
    hideTraffic();
    return;
  }
  let info, rule;
  try {
    [info, rule] = await Promise.all([call(`models/info?${new URLSearchParams({ id })}`), call(pathOf(id, "traffic"))]);
  } catch (error) {
    if (question === newestQuestion) showError(byId("versions-error"), error);
    return;
  }
  if (question !== newestQuestion) return;
  const versions = list(info.body.versions).filter(isObject).map((version) => ({ ...version, version: String(version.version) }));
  versions.sort((one, other) => inOrder(one.version, other.version));
  const traffic = isObject(rule.body.traffic) ? rule.body.traffic : {};
  byId("versions-error").replaceChildren();
  showVersions(id, versions, traffic);
  showTraffic(id, versions, traffic, rule.body.previous);
  if (versions.some((version) => version.state === "loading") && !document.hidden) timer = setTimeout(look, second);
}

// ---- What the buttons do --------------------------------------------------------------------------------------------

/** Asks the server to change something, of one version or of the model, and shows what came of it; one change at a time. */
async function change(button, path, method, doing, done, version = null) {
  if (isBusy) return;
  isBusy = true;
  modelSelect.disabled = true;
  button.setAttribute("aria-disabled", "true");
  byId("versions-error").replaceChildren();
  status.classList.remove("good");
  status.textContent = doing;
  try {
    await call(path, { method });
    changed = version; // Not sooner: rows that were asked for before are yet to come, and this one's button is still there.
    status.textContent = done;
    status.classList.add("good");
    await loadModels();
  } catch (error) {
    status.textContent = "";
    showError(byId("versions-error"), error);
  } finally {
    isBusy = false;
    modelSelect.disabled = false;
    button.removeAttribute("aria-disabled");
  }
}

const actions = {
  load(id, version, button) {
    return change(button, pathOf(id, "versions", version, "load"), "POST", `Loading version ${version}…`, `Version ${version} is loaded.`, version);
  },
  unload(id, version, button) {
    return change(button, pathOf(id, "versions", version, "unload"), "POST", `Unloading version ${version}…`, `Version ${version} is unloaded, and takes no requests until it is loaded again.`, version);
  },
  delete(id, version, button) {
    if (!window.confirm(`Delete ${id}, version ${version}? Its files go too.`)) return;
    return change(button, pathOf(id, "versions", version), "DELETE", `Deleting version ${version}…`, `${id}, version ${version}, is deleted.`, version);
  },
};

byId("versions-delete").addEventListener("click", ({ currentTarget }) => {
  const id = modelSelect.value;
  if (!window.confirm(`Delete ${id} with all its versions? Their files go too.`)) return;
  change(currentTarget, pathOf(id), "DELETE", `Deleting ${id}…`, `${id} is deleted.`);
});

modelSelect.addEventListener("change", () => {
  status.textContent = "";
  look();
});
whenTrafficChanges(() => loadModels());
document.addEventListener("visibilitychange", () => document.hidden ? clearTimeout(timer) : look());

whenModelsLoad((fresh) => {
  const ids = [...new Set(models.map((model) => model.id))];
  fillSelect(modelSelect, ids.map((id) => [id, id]), (fresh?.choose && fresh.id) || modelSelect.value);
  look();
});

whenModelButton("versions", (model) => {
  byId("versions").scrollIntoView();
  if (modelSelect.disabled) return; // The section says what it is doing.
  modelSelect.value = model.id;
  modelSelect.focus({ preventScroll: true });
  look();
});
