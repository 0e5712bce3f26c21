/** Requests to the service. Every failure becomes a Problem that can be shown to a person. */

/**
 * @typedef {object} Settings
 * @property {string|null} model
 * @property {string|null} method
 * @property {string|null} heads "each" for a heatmap of each attention head
 * @property {number|string|null} layers
 * @property {string|null} score
 * @property {number|null} size
 * @property {string} fit
 * @property {string} normalize
 * @property {string|null} trust
 * @property {boolean} words whether to ask for the contribution of each word
 *
 * @typedef {object} Question
 * @property {import("./picture.js").Picture} picture
 * @property {string[]} prompts
 * @property {object[]} targets other than prompts
 * @property {Settings} settings
 */

const KEY = "legrad-key";

/** An error to show, with the time after which to retry. */
export class Problem extends Error {
  /**
   * @param {{title: string, detail: string, status?: number, error?: string, request_id?: string}} body
   * @param {number|null} retryAfter seconds
   */
  constructor(body, retryAfter = null) {
    super(body.detail);
    this.title = body.title;
    this.status = body.status ?? 0;
    this.code = body.error ?? "";
    this.requestId = body.request_id ?? "";
    this.retryAfter = retryAfter;
  }
}

/** @param {string} key stored in this tab until it is closed */
export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

/** Return whether a key is stored. */
export function hasKey() {
  return Boolean(sessionStorage.getItem(KEY));
}

/** Return the URL of a path below the page's base address. @param {string} path */
export function addressOf(path) {
  return new URL(path, document.baseURI).href;
}

/** Return an unguessable id, so that nobody else can follow the request. */
export function newRequestId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * Return the text fields of a request to /explain.
 * @param {Question} question
 * @param {object} output
 * @returns {[string, string][]}
 */
export function textFields({ prompts, targets, settings }, output) {
  const { model, method, heads, layers, score, size, fit } = settings;
  const options = Object.fromEntries(
    Object.entries({ method, heads, layers, score, size, fit: fit === "squash" ? null : fit }).filter(
      ([, value]) => value !== null,
    ),
  );
  const texts = settings.words ? prompts.map((text) => ({ type: "text", text, words: true })) : [];
  const asked = [...texts, ...targets];
  /** @type {[string, string][]} */
  const fields = settings.words ? [] : prompts.map((prompt) => ["prompts", prompt]);
  if (asked.length) fields.push(["targets", JSON.stringify(asked)]);
  if (model) fields.push(["model", model]);
  if (Object.keys(options).length) fields.push(["options", JSON.stringify(options)]);
  fields.push(["output", JSON.stringify(output)]);
  return fields;
}

/**
 * @param {Question} question
 * @param {object} output
 * @param {{requestId?: string, signal?: AbortSignal}} [how]
 * @returns {Promise<any>} the response of /explain
 */
export async function explain(question, output, { requestId = newRequestId(), signal } = {}) {
  const body = new FormData();
  body.append("image", question.picture.blob, question.picture.name);
  for (const [name, value] of textFields(question, output)) body.append(name, value);
  return ask("explain", { method: "POST", body, signal, headers: { "X-Request-ID": requestId } });
}

/**
 * @param {string} requestId
 * @param {AbortSignal} signal
 * @returns {Promise<any>} the progress of the request
 */
export async function progressOf(requestId, signal) {
  return ask(`explain/${requestId}/progress`, { signal });
}

/** @param {string} path @param {RequestInit} [init] @returns {Promise<any>} */
export async function ask(path, init = {}) {
  const headers = new Headers(init.headers);
  headers.set("Accept", "application/json");
  const key = sessionStorage.getItem(KEY);
  if (key) headers.set("Authorization", `Bearer ${key}`);
  let response;
  try {
    response = await fetch(addressOf(path), { ...init, headers });
    if (response.ok) return await response.json();
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new Problem({
      title: "The server cannot be reached",
      detail: "It may have stopped, or the connection to it is down.",
      error: "unreachable",
    });
  }
  throw await problemOf(response);
}

/** @param {Response} response */
async function problemOf(response) {
  const seconds = Number.parseFloat(response.headers.get("Retry-After") ?? "");
  const retryAfter = Number.isFinite(seconds) ? seconds : null;
  try {
    const body = await response.json();
    if (body.title && body.detail) return new Problem(body, retryAfter);
  } catch {
    // Not problem details of the service: a proxy's error page, perhaps.
  }
  return new Problem(
    {
      title: "The server did not answer as expected",
      detail: `It sent status ${response.status} without a reason.`,
      status: response.status,
    },
    retryAfter,
  );
}
