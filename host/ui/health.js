// What the server says is wrong with it, at the top of the page: a store that does not answer, plugins it
// leaves alone, models it could not load.

import { byId, call, element, isObject, list } from "./common.js";

const seconds = 1000;
const usualPause = 30 * seconds;
const pauseWhileOpen = 5 * seconds; // A circuit closes by itself, and a store comes back.

let timer;
let shown = "";

const warning = (title, why) =>
  element("div", { className: "warning" }, element("p", {}, element("strong", { textContent: title })), element("p", { className: "why", textContent: why }));

function warningsOf(health) {
  const circuits = list(health.open_circuits).filter(isObject).map((circuit) => [
    `${circuit.plugin} at ${circuit.model}, version ${circuit.version}, failed ${circuit.failures_in_a_row} times in a row and is left alone for a while.`,
    String(circuit.last_failure ?? ""),
  ]);
  const skipped = list(health.skipped).filter(isObject).map((model) => [
    `${model.id}${model.version ? `, version ${model.version},` : ""} could not be loaded.`,
    String(model.reason ?? ""),
  ]);
  const store = health.store?.reachable === false
    ? [[`The store has not answered since ${new Date(health.store.since).toLocaleTimeString()}. What is loaded serves on.`, String(health.store.error ?? "")]]
    : [];
  return [...store, ...circuits, ...skipped];
}

/** Asks the server how it is, now and again after a while. That it does not answer, the lists say already. */
export async function checkHealth() {
  clearTimeout(timer);
  let pause = usualPause;
  try {
    const { body } = await call("health");
    const warnings = warningsOf(body);
    if (list(body.open_circuits).length || body.store?.reachable === false) pause = pauseWhileOpen;
    // What is shown already is not read out again.
    const key = JSON.stringify(warnings);
    if (key !== shown) byId("warnings").replaceChildren(...warnings.map(([title, why]) => warning(title, why)));
    shown = key;
  } catch {
    // A server that drains answers 503, one that is gone nothing: the next call of the visitor's shows it.
  }
  clearTimeout(timer);
  if (!document.hidden) timer = setTimeout(checkHealth, pause);
}

document.addEventListener("visibilitychange", () => document.hidden ? clearTimeout(timer) : checkHealth());
