// The form of a model's traffic rule: a default version, weights, stickiness, a shadow; and the way back.

import { announcer, byId, call, element, fillSelect, isNumber, isObject, jsonBody, share, showError } from "./common.js";

const form = byId("traffic-form");
const standard = byId("traffic-default");
const weights = byId("traffic-weights");
const sticky = byId("traffic-sticky");
const stickyName = byId("traffic-sticky-name");
const shadow = byId("traffic-shadow");
const shadowShare = byId("traffic-shadow-share");
const status = byId("traffic-status");
const buttons = [byId("traffic-save"), byId("traffic-clear"), byId("traffic-rollback")];

const changes = announcer();

/** Calls a function each time the server took a new rule. */
export const whenTrafficChanges = changes.listen;

/** The model, and what the form was filled with, so that what somebody types is not taken away. */
let model = null;
let filledWith = "";
let isBusy = false;

/** The versions with a weight, each with its share of the traffic as text. */
export function sharesOf(byVersion) {
  const drawn = Object.entries(isObject(byVersion) ? byVersion : {}).filter(([, weight]) => isNumber(weight) && weight > 0);
  const sum = drawn.reduce((sum, [, weight]) => sum + weight, 0);
  return drawn.map(([version, weight]) => [version, share(weight / sum)]);
}

/** A rule as a sentence. */
function inWords(rule) {
  const shares = sharesOf(rule.weights);
  const drawn = shares.map(([version, part]) => `${part} to version ${version}`).join(", ");
  const parts = [drawn || (rule.default ? `version ${rule.default} answers` : "the newest version answers")];
  const [kind, name] = Object.entries(rule.sticky ?? {})[0] ?? [];
  if (kind && drawn) parts.push(`sticky by the ${kind} ${name}`);
  if (rule.shadow) parts.push(`version ${rule.shadow.version} shadows ${share(rule.shadow.fraction ?? 1)}`);
  return parts.join("; ");
}

// ---- The form -------------------------------------------------------------------------------------------------------

const weightOf = (input) => (isNumber(input.valueAsNumber) && input.valueAsNumber > 0 ? input.valueAsNumber : 0);
const weightInputs = () => [...weights.querySelectorAll("input")];

function weightRow(version, weight) {
  const input = element("input", { type: "number", inputMode: "decimal", min: 0, step: "any", placeholder: "0", value: weight ?? "" });
  input.dataset.version = version;
  return element("li", {},
    element("label", {}, element("span", { className: "label", textContent: `Version ${version}` }), input),
    element("span", { className: "value" }),
    element("span", { className: "track" }, element("span")));
}

/** Shows what the typed weights come to, and only the fields that what is chosen needs. */
function arrange() {
  const inputs = weightInputs();
  const sum = inputs.reduce((sum, input) => sum + weightOf(input), 0);
  for (const input of inputs) {
    const part = sum > 0 ? weightOf(input) / sum : 0;
    const row = input.closest("li");
    row.querySelector(".value").textContent = sum > 0 ? share(part) : "";
    row.querySelector(".track span").style.setProperty("--share", part);
  }
  standard.disabled = sum > 0;
  byId("traffic-default-hint").textContent = sum > 0 ? "The weights decide." : "";
  sticky.disabled = sum === 0;
  stickyName.disabled = sum === 0 || !sticky.value;
  byId("traffic-sticky-field").hidden = !sticky.value;
  byId("traffic-shadow-field").hidden = shadowShare.disabled = !shadow.value;
}

function fill(versions, rule) {
  const names = versions.map(({ version }) => version);
  const choices = names.map((version) => [version, `Version ${version}`]);
  fillSelect(standard, [["", "The newest that was uploaded"], ...choices], rule.default ?? "");
  weights.replaceChildren(...names.map((version) => weightRow(version, rule.weights?.[version])));
  const [kind, name] = Object.entries(rule.sticky ?? {})[0] ?? ["", ""];
  sticky.value = kind;
  stickyName.value = name;
  fillSelect(shadow, [["", "None"], ...choices], rule.shadow?.version ?? "");
  shadowShare.value = Math.round((rule.shadow?.fraction ?? 1) * 1e4) / 100;
}

/** Shows a model's rule and the one before; fills the form where the server's rule is another than it was. */
export function showTraffic(id, versions, rule, previous) {
  const isOther = model !== id;
  model = id;
  form.hidden = false;
  const before = isObject(previous) ? inWords(previous) : "";
  byId("traffic-now").textContent = `Now: ${inWords(rule)}.`;
  byId("traffic-previous").textContent = before ? `Roll back returns to: ${before}.` : "There is no rule before this one to roll back to.";
  byId("traffic-rollback").disabled = !before;
  const key = JSON.stringify([id, rule, versions.map(({ version }) => version)]);
  if (key !== filledWith) fill(versions, rule);
  filledWith = key;
  if (isOther) {
    status.textContent = "";
    byId("traffic-error").replaceChildren();
  }
  arrange();
}

export function hideTraffic() {
  model = null;
  form.hidden = true;
}

function ruleOfForm() {
  const drawn = Object.fromEntries(weightInputs().filter(weightOf).map((input) => [input.dataset.version, weightOf(input)]));
  const hasWeights = Object.keys(drawn).length > 0;
  return {
    ...(standard.value && { default: standard.value }),
    ...(hasWeights && { weights: drawn }),
    ...(hasWeights && sticky.value && { sticky: { [sticky.value]: stickyName.value.trim() } }),
    ...(shadow.value && { shadow: { version: shadow.value, fraction: shadowShare.valueAsNumber / 100 } }),
  };
}

async function change(path, options, done) {
  if (isBusy || !model) return;
  isBusy = true;
  byId("traffic-error").replaceChildren();
  status.classList.remove("good");
  status.textContent = "Changing the traffic…";
  buttons.forEach((button) => button.setAttribute("aria-disabled", "true"));
  try {
    const { body } = await call(`models/${encodeURIComponent(model)}/traffic${path}`, options);
    filledWith = ""; // The form shows what the server took.
    status.textContent = `${done} ${inWords(isObject(body.traffic) ? body.traffic : {})}.`;
    status.classList.add("good");
    changes.tell();
  } catch (error) {
    status.textContent = "";
    showError(byId("traffic-error"), error);
  } finally {
    isBusy = false;
    buttons.forEach((button) => button.removeAttribute("aria-disabled"));
  }
}

form.addEventListener("input", arrange);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  change("", { method: "PUT", ...jsonBody(JSON.stringify(ruleOfForm())) }, "From the next request on:");
});
byId("traffic-clear").addEventListener("click", () => change("", { method: "DELETE" }, "The rule is gone:"));
byId("traffic-rollback").addEventListener("click", () => change("/rollback", { method: "POST" }, "Rolled back:"));
