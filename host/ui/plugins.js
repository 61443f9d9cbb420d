// The plugins: listed, uploaded with what they are granted, and removed.

import {
  announcer, byId, bytes, call, element, facts, folded, isObject, list, multipart, showError, uploadForm,
} from "./common.js";
import { loadModels, models, whenModelsLoad } from "./models.js";

/** The plugins as the server lists them, each with its name@version. */
export let plugins = [];

const changes = announcer();

/** Calls a function each time the plugins were loaded. */
export const whenPluginsLoad = changes.listen;

let newestLoad = 0;
let freshReference = null;

const grantsText = ({ hosts, clock, random } = {}) =>
  [list(hosts).join(", "), clock && "the clock", random && "random numbers"].filter(Boolean).join("; ") || "nothing";

/** Where instances come from: a copy of the memory that `init` left, or `init` each time. */
function initText(plugin, bindings) {
  if (plugin.no_snapshot) return `in each instance: ${plugin.no_snapshot}`;
  const each = bindings.find((binding) => binding.no_snapshot);
  return each ? `in each instance: ${each.no_snapshot}` : "once, then copied from a snapshot of its memory";
}

function boundText(bindings) {
  const versions = Map.groupBy(bindings, ({ model, version }) => `${model}, version ${version}`);
  return [...versions].map(([model, stages]) => `${model} (${stages.map(({ stage }) => stage).join(", ")})`).join("; ") || "no model";
}

function pluginRow(plugin, bindings) {
  const error = element("div", { role: "alert" });
  const remove = element("button", { type: "button", className: "quiet" },
    "Remove", element("span", { className: "visually-hidden", textContent: `: ${plugin.reference}` }));
  remove.addEventListener("click", () => removePlugin(plugin, error));
  const sha256 = element("span", { className: "mono", title: plugin.sha256, textContent: String(plugin.sha256 ?? "").slice(0, 12) });
  const row = element(
    "li",
    { className: plugin.reference === freshReference ? "fresh" : "" },
    element("div", { className: "who" },
      element("div", {},
        element("p", { className: "name" }, String(plugin.name), " ", element("span", { className: "ids", textContent: plugin.version })),
        element("p", { className: "badges" }, ...list(plugin.stages).map((stage) => element("span", { className: "badge", textContent: stage })))),
      remove),
    error,
    facts([
      ["Bound to", boundText(bindings)],
      ["Granted", grantsText(plugin.grants)],
      ["Asks for", list(plugin.hosts).join(", ")],
      ["Init", initText(plugin, bindings)],
      ["Contract", plugin.contract],
      ["Size", bytes(plugin.size)],
      ["SHA-256", sha256],
    ]),
    isObject(plugin.config_schema) ? folded("Schema of its configuration", plugin.config_schema) : null,
  );
  row.dataset.plugin = plugin.reference;
  return row;
}

async function removePlugin(plugin, errorPlace) {
  if (!window.confirm(`Remove ${plugin.reference} from the server?`)) return;
  errorPlace.replaceChildren();
  try {
    await call(`plugins?${new URLSearchParams({ name: plugin.name, version: plugin.version })}`, { method: "DELETE" });
  } catch (error) {
    showError(errorPlace, error);
    return;
  }
  byId("plugins-status").textContent = `${plugin.reference} is removed.`;
  byId("plugins-title").focus(); // The button that had the focus goes with its row.
  await loadPlugins();
}

/** The bindings of a plugin, which the server tells of each by itself. */
async function bindingsOf(plugin) {
  const isBound = models.some((model) => [model.preprocess, model.postprocess].includes(plugin.reference));
  if (!isBound) return [];
  const { body } = await call(`plugins/info?${new URLSearchParams({ name: plugin.name, version: plugin.version })}`);
  return list(body.bound_to).filter(isObject);
}

/** Loads and shows the plugins. Which models they are bound to is known once those are loaded. */
async function loadPlugins() {
  const load = ++newestLoad;
  let loaded, bindings;
  try {
    const { body } = await call("plugins");
    loaded = list(body.plugins).filter(isObject).map((plugin) => ({ ...plugin, reference: `${plugin.name}@${plugin.version}` }));
    bindings = await Promise.all(loaded.map(bindingsOf));
  } catch (error) {
    if (load === newestLoad) showError(byId("plugins-error"), error);
    return;
  }
  if (load !== newestLoad) return; // A later one shows what is newer.
  plugins = loaded;
  byId("plugins-error").replaceChildren();
  byId("plugins-count").textContent = plugins.length;
  byId("plugins-empty").hidden = plugins.length > 0;
  const region = byId("plugins-list");
  region.replaceChildren(...plugins.map((plugin, position) => pluginRow(plugin, bindings[position])));
  const freshRow = region.querySelector(".fresh");
  if (freshRow) region.scrollTop = freshRow.offsetTop - region.offsetTop;
  freshReference = null;
  changes.tell();
}

/** The form's grants: hosts are parted by commas, spaces or lines. */
function grantsOfForm() {
  const hosts = byId("plugin-hosts").value.split(/[\s,]+/).filter(Boolean);
  return { hosts, clock: byId("plugin-clock").checked, random: byId("plugin-random").checked };
}

uploadForm(
  "plugin",
  "plugins/upload",
  "plugin",
  () => multipart({ grants: JSON.stringify(grantsOfForm()) }, { file: byId("plugin-file") }),
  async ({ plugin }) => {
    const reference = `${plugin.name}@${plugin.version}`;
    byId("plugins-status").textContent = "";
    freshReference = reference;
    await loadPlugins();
    return `${reference} is here. It serves once it is bound to a model.`;
  },
);

byId("plugins-refresh").addEventListener("click", () => loadModels());
whenModelsLoad(loadPlugins);
