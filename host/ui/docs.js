// `/docs`: every operation of `openapi.json`, to read and to try.

import { byId, call, element, isObject, list, milliseconds, shorten, showError } from "./common.js";

const methods = ["get", "post", "put", "delete"];
const longest = 50_000; // Of an answer that is shown, in characters.
const deepest = 6; // Of schemas in schemas that are written out.

let openapi;

/** What a reference within the document stands for; anything else as it is. */
function resolve(value) {
  if (!isObject(value) || !value.$ref) return value;
  const found = value.$ref.slice(2).split("/").reduce((node, key) => node?.[key], openapi);
  const { $ref, ...beside } = value;
  return { ...found, ...beside, properties: mergeProperties(found?.properties, beside.properties) };
}

function mergeProperties(found, beside) {
  if (!found && !beside) return undefined;
  const merged = { ...found };
  for (const [name, schema] of Object.entries(beside ?? {})) merged[name] = { ...resolve(found?.[name]), ...schema };
  return merged;
}

// ---- Schemas as text --------------------------------------------------------------------------------------------------

const limits = ({ minimum, maximum, minLength, maxLength, pattern, format }) => [
  minimum !== undefined && `from ${minimum}`,
  maximum !== undefined && `to ${maximum}`,
  minLength && `at least ${minLength} characters`,
  maxLength && `at most ${maxLength} characters`,
  pattern && `matching ${pattern}`,
  format,
].filter(Boolean).join(", ");

/** A schema in the notation of the JSON that it describes: `{"name": string, "shape": [integer (from 0)]}`. */
function notation(schema, depth = 0) {
  const name = schema?.$ref?.split("/").pop();
  if (depth > deepest) return name ?? "…";
  const it = resolve(schema);
  if (!isObject(it)) return "anything";
  if (it.const !== undefined) return JSON.stringify(it.const);
  if (it.enum) return it.enum.map((value) => JSON.stringify(value)).join(" | ");
  const variants = it.anyOf ?? it.oneOf;
  if (variants) return variants.map((variant) => notation(variant, depth + 1)).join("\n  or ".padEnd(depth * 2, " "));
  const types = [it.type ?? (it.properties ? "object" : [])].flat();
  if (!types.length) return it.not ? `anything but ${notation(it.not, depth + 1)}` : "anything";
  return types.map((type) => ofType(type, it, depth)).join(" | ");
}

function ofType(type, schema, depth) {
  const pad = "  ".repeat(depth + 1);
  if (type === "array") return schema.items ? `[${notation(schema.items, depth + 1)}, …]` : "[…]";
  if (type === "object") {
    const required = new Set(list(schema.required));
    const fields = Object.entries(schema.properties ?? {}).map(
      ([name, field]) => `${pad}${JSON.stringify(name)}${required.has(name) ? "" : "?"}: ${notation(field, depth + 1)}`);
    if (isObject(schema.additionalProperties)) fields.push(`${pad}any name: ${notation(schema.additionalProperties, depth + 1)}`);
    return fields.length ? `{\n${fields.join(",\n")}\n${"  ".repeat(depth)}}` : "{…}";
  }
  const more = limits(schema);
  return more && type !== "null" ? `${type} (${more})` : type;
}

// ---- An operation to read ---------------------------------------------------------------------------------------------

const heading = (textContent) => element("h4", { textContent });

/** Text with `code` in it. */
function prose(text, tag = "p") {
  const parts = text.split("`").map((part, index) => (index % 2 ? element("code", { textContent: part }) : part));
  return element(tag, {}, ...parts);
}

function described(title, notes, description) {
  return [element("dt", {}, title, notes ? element("small", { textContent: ` ${notes}` }) : null), prose(description ?? "", "dd")];
}

function schemaOf(schema) {
  return element("details", {}, element("summary", { textContent: "Schema" }), element("pre", { tabIndex: 0, textContent: notation(schema) }));
}

function bodyOf(body) {
  if (!body) return [];
  const kinds = Object.entries(body.content).map(([media, { schema }]) => element("div", {}, element("p", { className: "hint", textContent: media }), schemaOf(schema)));
  return [heading("Body"), ...(body.description ? [prose(body.description)] : []), ...kinds];
}

function answersOf(responses) {
  const entries = Object.entries(responses).flatMap(([status, response]) => {
    const { description, content } = resolve(response);
    const kinds = Object.entries(content ?? {});
    const [title, text] = described(status, kinds.map(([media]) => media).join(", "), description);
    if (Number(status) < 300) text.append(...kinds.filter(([media]) => /json/.test(media)).map(([, { schema }]) => schemaOf(schema)));
    return [title, text];
  });
  return [heading("Answers"), element("dl", {}, ...entries)];
}

function reading(operation, parameters) {
  const rows = parameters.flatMap((parameter) =>
    described(parameter.name, `${parameter.in}${parameter.required ? ", required" : ""}, ${notation(parameter.schema, deepest)}`, parameter.description));
  return element(
    "div",
    {},
    ...(operation.description ? [prose(operation.description)] : []),
    ...(rows.length ? [heading("Parameters"), element("dl", {}, ...rows)] : []),
    ...bodyOf(operation.requestBody),
    ...answersOf(operation.responses),
  );
}

// ---- An operation to try ----------------------------------------------------------------------------------------------

const jsonOf = (operation) => operation.requestBody?.content["application/json"];
const canBeTried = (operation) => !operation.requestBody || Boolean(jsonOf(operation));

function field(label, input, id) {
  input.id = id;
  return element("div", { className: "field" }, element("label", { htmlFor: id, textContent: label }), input);
}

function bodyField(operation, id) {
  const json = jsonOf(operation);
  if (!json) return { nodes: [], value: () => undefined };
  const examples = Object.entries(json.examples ?? {}).map(([name, example]) => [name, JSON.stringify(resolve(example).value, null, 2)]);
  const text = element("textarea", { rows: 8, spellcheck: false, value: examples[0]?.[1] ?? "{}" });
  const nodes = [field("Body, as JSON", text, `${id}-body`)];
  if (examples.length > 1) {
    const choice = element("select", {}, ...examples.map(([name, value]) => element("option", { value, textContent: name })));
    choice.addEventListener("change", () => { text.value = choice.value; });
    nodes.unshift(field("Example", choice, `${id}-example`));
  }
  return { nodes, value: () => text.value };
}

/** The request that the inputs describe: its address, relative to the page, and its headers. */
function requestOf(path, inputs) {
  const query = new URLSearchParams();
  const headers = {};
  let address = path.slice(1);
  for (const { parameter, input } of inputs) {
    const { name, in: place } = parameter;
    // Slashes of a file's path stay what they are.
    if (place === "path") address = address.replace(`{${name}}`, input.value.split("/").map(encodeURIComponent).join("/"));
    else if (input.value && place === "query") query.append(name, input.value);
    else if (input.value) headers[name] = input.value;
  }
  return { address: (address || ".") + (query.size ? `?${query}` : ""), headers };
}

async function send(method, { address, headers }, body) {
  const started = performance.now();
  const type = body === undefined ? {} : { "content-type": "application/json" };
  const response = await fetch(address, { method: method.toUpperCase(), headers: { ...type, ...headers }, body });
  const text = await response.text();
  return { response, text, ms: performance.now() - started };
}

function showAnswer(place, { response, text, ms }) {
  let shown = text;
  try {
    shown = JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    // Not JSON: shown as it came.
  }
  const badge = element("span", { className: `badge ${response.ok ? "good" : "bad"}`, textContent: String(response.status) });
  const about = [response.headers.get("content-type"), milliseconds(ms), `request ${response.headers.get("x-request-id") ?? "?"}`];
  place.replaceChildren(
    element("p", { className: "status" }, badge, ` ${about.filter(Boolean).join(" · ")}`),
    element("pre", { tabIndex: 0, textContent: shorten(shown, longest) }));
}

function trying(path, method, operation, parameters) {
  const id = `try-${operation.operationId}`;
  const inputs = parameters.filter(({ style }) => !style).map((parameter) => {
    const input = element("input", { type: "text", autocomplete: "off", spellcheck: false, value: parameter.example ?? "", required: parameter.required === true });
    return { parameter, input };
  });
  const rare = inputs.filter(({ parameter }) => parameter.in === "header");
  const usual = inputs.filter(({ parameter }) => parameter.in !== "header");
  const asField = ({ parameter, input }) => field(parameter.name, input, `${id}-${parameter.name}`);
  const body = bodyField(operation, id);
  const submit = element("button", { type: "submit", className: "primary", textContent: "Send" });
  const result = element("div", { className: "result", ariaLive: "polite" });
  const headers = element("details", {}, element("summary", { textContent: "Headers" }), ...rare.map(asField));
  const form = element("form", { id }, heading("Try it"), ...usual.map(asField), ...body.nodes, headers, submit, result);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (submit.ariaDisabled === "true") return;
    const request = requestOf(path, inputs);
    if (method === "delete" && !confirm(`DELETE ${request.address}?`)) return;
    submit.ariaDisabled = "true";
    try {
      showAnswer(result, await send(method, request, body.value()));
    } catch (error) {
      showError(result, error);
    } finally {
      submit.ariaDisabled = null;
    }
  });
  return form;
}

// ---- The page ---------------------------------------------------------------------------------------------------------

function operationNode(path, method, operation, shared) {
  const parameters = [...list(operation.parameters), ...list(shared)].map(resolve);
  const node = element(
    "details",
    { className: "operation", id: operation.operationId },
    element("summary", {},
      element("span", { className: `badge method ${method}`, textContent: method.toUpperCase() }),
      element("span", { className: "path", textContent: path }),
      element("span", { className: "what", textContent: operation.summary })));
  node.dataset.words = `${method} ${path} ${operation.summary} ${operation.operationId}`.toLowerCase();
  // Made when somebody looks: there are many.
  node.addEventListener("toggle", () => {
    if (!node.open || node.childElementCount > 1) return;
    const parts = [reading(operation, parameters)];
    if (canBeTried(operation)) parts.push(trying(path, method, operation, parameters));
    node.append(element("div", { className: "halves inside" }, ...parts));
  });
  return node;
}

function section({ name, description }) {
  const operations = Object.entries(openapi.paths).flatMap(([path, item]) =>
    methods.filter((method) => item[method]?.tags.includes(name)).map((method) => operationNode(path, method, item[method], item.parameters)));
  const head = element("div", { className: "card-head" }, element("h2", { textContent: name }), prose(description));
  return element("section", { className: "card" }, head, ...operations);
}

function filter() {
  const words = byId("docs-filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const group of document.querySelectorAll("#docs-operations section")) {
    const operations = [...group.querySelectorAll(".operation")];
    for (const node of operations) node.hidden = !words.every((word) => node.dataset.words.includes(word));
    group.hidden = operations.every((node) => node.hidden);
  }
}

/** Opens the operation that the address names. */
function openNamed() {
  const named = byId(decodeURIComponent(location.hash.slice(1)));
  if (!named?.matches(".operation")) return;
  named.open = true;
  named.scrollIntoView();
}

async function load() {
  try {
    openapi = (await call("openapi.json")).body;
    byId("docs-version").textContent = openapi.info.version;
    byId("docs-about").replaceChildren(...openapi.info.description.split("\n\n").map((text) => prose(text)));
    byId("docs-operations").replaceChildren(...openapi.tags.map(section));
    filter();
    openNamed();
  } catch (error) {
    showError(byId("docs-error"), error);
  }
  byId("docs-operations").removeAttribute("aria-busy");
}

byId("docs-filter").addEventListener("input", filter);
addEventListener("hashchange", openNamed);
load();
