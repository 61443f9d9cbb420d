// What every part of the page uses: elements, numbers as text, calls to the server, errors, forms that upload.
//
// Every text that comes from the server goes in with textContent: labels, names and errors are written by strangers.
// Addresses are relative, so the page also works behind a proxy that puts a path before it.

export const byId = (id) => document.getElementById(id);

/** An element with properties and children; a child that is a string becomes a text node, null is left out. */
export function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const percent = new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
export const decimal = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
export const share = (value) => (value > 0 && value < 0.001 ? "<0.1%" : percent.format(value));
export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
export const list = (value) => (Array.isArray(value) ? value : []);
export const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
export const milliseconds = (ms) => (ms >= 100 ? `${Math.round(ms)} ms` : `${decimal.format(ms)} ms`);
export const bytes = (size) =>
  size >= 1e6 ? `${decimal.format(size / 1e6)} MB` : size >= 1e3 ? `${decimal.format(size / 1e3)} kB` : `${size} bytes`;
/** Texts with numbers in them: 2 before 10. */
export const inOrder = new Intl.Collator("en", { numeric: true }).compare;
export const shorten = (text, limit) => (text.length > limit ? `${text.slice(0, limit)}…` : text);

// ---- Talking to the server ------------------------------------------------------------------------------------------

/** What the server refused, or why it could not be asked. */
export class CallError extends Error {
  constructor(message, { status, code, requestId } = {}) {
    super(message);
    Object.assign(this, { status, code, requestId });
  }
}

/**
 * The JSON of an answer; throws a CallError for anything but a success with a JSON object in it. `takesAnyType` lets a
 * success of another type through as its text: a plugin may answer what it likes.
 */
function readAnswer(status, text, header, takesAnyType = false) {
  let body = null;
  try {
    body = JSON.parse(text);
  } catch {
    // Not JSON: a proxy's own error page, most likely. It is reported below.
  }
  const requestId = body?.request_id ?? header("x-request-id") ?? undefined;
  const isSuccess = status >= 200 && status < 300;
  if (isSuccess && isObject(body)) return { body, requestId };
  // Every answer of the server has a request id; a page that a proxy puts in its place has none.
  if (isSuccess && takesAnyType && requestId) return { body: {}, text, type: header("content-type") ?? "", requestId };
  const message = isObject(body) && body.error ? String(body.error) : shorten(text.trim(), 300) || "The answer was empty.";
  throw new CallError(message, { status, code: body?.code, requestId });
}

async function ask(path, options, takesAnyType) {
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
  const header = (name) => response.headers.get(name);
  return { ...readAnswer(response.status, text, header, takesAnyType), roundTrip, header };
}

/** Asks the server for a JSON object. */
export const call = (path, options) => ask(path, options, false);

/** Asks for a prediction, whose answer may be of any type. */
export const predict = (query, options) => ask(`predict${query}`, { method: "POST", ...options }, true);

/** The options of a call that sends JSON, given as text. */
export const jsonBody = (text) => ({ headers: { "content-type": "application/json" }, body: text });

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

export function showError(place, error) {
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

export function facts(rows) {
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

/** JSON that opens at a click. */
export function folded(title, json) {
  return element("details", {},
    element("summary", { textContent: title }),
    element("pre", { tabIndex: 0, textContent: shorten(JSON.stringify(json, null, 2), 50_000) }));
}

/** A place for those who want to know when something changed. */
export function announcer() {
  const listeners = [];
  return { listen: (listener) => listeners.push(listener), tell: (news) => listeners.forEach((listener) => listener(news)) };
}

/** Puts options into a select and keeps what was chosen, where it is still there. */
export function fillSelect(select, options, chosen = select.value) {
  select.replaceChildren(...options.map(([value, textContent]) => element("option", { value, textContent })));
  select.value = chosen;
  if (select.selectedIndex === -1) select.selectedIndex = 0;
}

// ---- Forms that upload -----------------------------------------------------------------------------------------------

/**
 * Wires an upload form: `toForm` makes the multipart form, `onDone` gets the answer and returns the sentence to show.
 * `what` is the word for what is uploaded.
 */
export function uploadForm(prefix, path, what, toForm, onDone) {
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
        if (done === 1) status.textContent = `Uploaded. The server is checking the ${what}…`;
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
export function multipart(fields, files) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  for (const [name, input] of Object.entries(files)) for (const file of input.files) form.append(name, file);
  return form;
}
