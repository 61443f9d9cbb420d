// An answer of `POST /predict`, and the places that show one.

import { byId, element, facts, folded, isNumber, isObject, list, milliseconds, share, shorten, showError } from "./common.js";
import { checkHealth } from "./health.js";

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

/** The steps of a `Server-Timing` header, in the order the server names them: `infer;dur=0.204` → name and milliseconds. */
function readTiming(header) {
  return (header ?? "").split(",").flatMap((entry) => {
    const [name, ...parameters] = entry.split(";").map((part) => part.trim());
    const duration = parameters.find((parameter) => parameter.startsWith("dur="));
    const ms = Number.parseFloat(duration?.slice("dur=".length));
    return name && isNumber(ms) ? [{ name, ms }] : [];
  });
}

/** The steps one above the other, each as a bar that begins where the one before ends. */
function timing(steps) {
  const total = steps.reduce((sum, { ms }) => sum + ms, 0);
  let before = 0;
  const rows = steps.map(({ name, ms }) => {
    const fill = element("span");
    fill.style.setProperty("--from", total ? before / total : 0);
    fill.style.setProperty("--share", total ? ms / total : 0);
    before += ms;
    return element("li", {},
      element("span", { textContent: name }),
      element("span", { className: "track", ariaHidden: "true" }, fill),
      element("span", { className: "value", textContent: milliseconds(ms) }));
  });
  return element("ol", { className: "timing", ariaLabel: "Steps in the server" }, ...rows);
}

/** What a plugin answered that is no JSON object: its text, where it is text. */
function ownAnswer({ text, type }) {
  const isText = /^text\/|[/+]json\b|[/+]xml\b/.test(type) && !text.includes("\uFFFD");
  if (!isText) return element("p", { className: "empty", textContent: `The plugin answered ${type || "bytes of no type"}, which is not shown.` });
  return element("pre", { tabIndex: 0, textContent: shorten(text, 50_000) });
}

/** Shows an answer of `POST /predict`, whatever it holds, and returns the sentence to read out. */
function showAnswer(place, { body, text, type, requestId, roundTrip, header }) {
  const cache = header("x-cache")?.toLowerCase();
  const bypassed = header("x-bypassed");
  const steps = readTiming(header("server-timing"));
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
      bypassed
        ? element("p", { className: "warning", textContent: `Bypassed: ${bypassed}. The plugin failed, and the request went on without it.` })
        : null,
      text === undefined ? null : ownAnswer({ text, type }),
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
        ["Type", type],
        ["Latency", isNumber(body.latency_ms) ? `${milliseconds(body.latency_ms)} in the server` : null],
        ["Round trip", milliseconds(roundTrip)],
        ["Steps", steps.length ? timing(steps) : null],
        ["Cache", cacheBadge],
        ["Request", requestId ? mono(String(requestId)) : null],
      ]),
      text === undefined ? folded("Answer as JSON", body) : null,
    ),
  );
  place.hidden = false;
  const warning = bypassed ? `Bypassed: ${bypassed}. ` : "";
  return warning + (headline === null ? "The answer is here." : `${headline}${confidence && `, ${confidence}`}`);
}

/**
 * A place that shows the answer to the newest question only: asking again drops the one before. A question gets a signal
 * and resolves to an answer; the result is whether it came.
 */
export function asker(prefix, submit) {
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

  const run = async (question) => {
    current?.abort();
    const mine = (current = new AbortController());
    region.setAttribute("aria-busy", "true");
    submit.setAttribute("aria-disabled", "true");
    errorPlace.replaceChildren();
    status.textContent = "Predicting…";
    try {
      const answer = await question(mine.signal);
      if (current !== mine) return false;
      status.textContent = showAnswer(answerPlace, answer);
      status.classList.add("visually-hidden"); // The answer below says the same to those who see it.
      return true;
    } catch (error) {
      if (current === mine && error.name !== "AbortError") fail(error);
      return false;
    } finally {
      checkHealth(); // A plugin that failed again may be left alone from now on.
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
