// HTTP client of the page: sends requests with the API key and turns every failure into an error that can be shown.

/** @import { Evaluation } from "./evaluation-table.js" */
/** @import { ReportDifference } from "./report.js" */

/**
 * A class that a model predicts.
 * @typedef {{name: string, color: [number, number, number]}} LabelClass
 *
 * A model as `GET /models` lists it; fields are null until the service has read the model's file.
 * @typedef {object} Model
 * @property {string} name
 * @property {{name: string, classes: LabelClass[]} | null} labels
 * @property {string | null} digest
 * @property {boolean} loaded
 * @property {string | null} error why the file cannot be loaded
 *
 * How images are segmented: `native` for full resolution with a sliding window, `flip` for flip augmentation.
 * @typedef {{native: boolean, flip: boolean}} InferenceOptions
 */

const KEY_ITEM = "segment-key";
const HEADER_VALUE = /^[\x21-\x7e]+$/; // the characters that an HTTP header can carry, without spaces

/** A request that failed. `message` is a sentence for the user. */
export class ApiError extends Error {
  /**
   * @param {string} message
   * @param {{status?: number, code?: string, retryAfter?: number | null}} details the HTTP status (0 without a response),
   *   the service's error code ("unreachable" without a response), and the seconds of `Retry-After`
   */
  constructor(message, { status = 0, code = "", retryAfter = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }

  /** Whether another API key is needed. */
  get needsKey() {
    return this.code === "unauthorized" || this.code === "insufficient_scope";
  }

  /** Whether the same request can succeed later. */
  get isTransient() {
    return this.code === "unreachable" || this.status === 503;
  }
}

/** Dispatches `success` after every successful response, so that the page can withdraw its "not responding" notice. */
export const apiEvents = new EventTarget();
const reportSuccess = () => apiEvents.dispatchEvent(new Event("success"));

/**
 * Store the API key for the lifetime of this tab.
 * @param {string} key
 * @returns {boolean} false if the text cannot be a key
 */
export function setKey(key) {
  if (!HEADER_VALUE.test(key)) return false;
  sessionStorage.setItem(KEY_ITEM, key);
  return true;
}

/** Delete the stored API key. */
export function clearKey() {
  sessionStorage.removeItem(KEY_ITEM);
}

/**
 * Return whether an API key is stored.
 * @returns {boolean}
 */
export function hasKey() {
  return sessionStorage.getItem(KEY_ITEM) !== null;
}

/** @returns {Record<string, string>} */
function authHeaders() {
  const key = sessionStorage.getItem(KEY_ITEM);
  return key === null ? {} : { Authorization: `Bearer ${key}` };
}

const unreachable = () =>
  new ApiError("The service is not responding. Check that it is running and that this computer can reach it.", {
    code: "unreachable",
  });

const invalidResponse = (status) =>
  new ApiError("The response does not come from the segmentation service. Check the address and any proxy in between.", {
    status, code: "invalid_response",
  });

/** The error of a response with an error status. A proxy may have sent it, so the body can be anything. */
function errorFromResponse(status, body, header) {
  let problem = null;
  try {
    problem = JSON.parse(body);
  } catch { /* The body is not JSON: a proxy sent it. */ }
  const text = (value) => (typeof value === "string" ? value.trim() : "");
  const detail = text(problem?.detail) || `the server answered with HTTP status ${status} and no explanation; try again later`;
  const sentence = `${detail[0].toUpperCase()}${detail.slice(1)}${/[.!?]$/.test(detail) ? "" : "."}`;
  return new ApiError(sentence, { status, code: text(problem?.code), retryAfter: Number(header("Retry-After")) || null });
}

/**
 * Send a request with the API key.
 * @param {string} path
 * @param {RequestInit} options
 * @returns {Promise<Response>} a successful response
 * @throws {ApiError} or the AbortError of `options.signal`
 */
export async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: authHeaders() });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw unreachable();
  }
  if (!response.ok) {
    const body = await response.text().catch(() => "");
    throw errorFromResponse(response.status, body, (name) => response.headers.get(name));
  }
  reportSuccess();
  return response;
}

/**
 * Send a request with the API key and parse the JSON of the response.
 * @param {string} path
 * @param {RequestInit} options
 * @returns {Promise<any>}
 * @throws {ApiError} or the AbortError of `options.signal`
 */
export async function requestJson(path, options = {}) {
  const response = await request(path, options);
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw error instanceof SyntaxError ? invalidResponse(response.status) : unreachable();
  }
}

/**
 * Return the names of the splits of the service's dataset.
 * @param {AbortSignal} signal
 * @returns {Promise<string[]>}
 * @throws {ApiError} with the code "dataset_unavailable" if there is no dataset
 */
export const fetchSplits = async (signal) => (await requestJson("dataset", { signal })).splits;

/**
 * Return an evaluation with its report.
 * @param {string} id
 * @returns {Promise<Evaluation>}
 * @throws {ApiError}
 */
export const fetchEvaluation = (id) => requestJson(`evaluate/${id}`);

/**
 * Return the scores of an evaluation minus those of another one.
 * @param {string} id
 * @param {string} base id of the other evaluation
 * @returns {Promise<ReportDifference>}
 * @throws {ApiError} with the code "not_comparable" if they were not run on the same images
 */
export const fetchDifference = (id, base) => requestJson(`evaluate/${id}/difference?${new URLSearchParams({ base })}`);

/**
 * Return an example image of a report, or its label as an indexed PNG.
 * @param {string} id of the evaluation
 * @param {number} index of the example
 * @param {"image" | "label"} kind
 * @param {AbortSignal} signal
 * @returns {Promise<Blob>}
 * @throws {ApiError}
 */
export async function fetchExample(id, index, kind, signal) {
  return (await request(`evaluate/${id}/examples/${index}/${kind}`, { signal })).blob();
}

/**
 * Return the URL to post an image to.
 * @param {string} model
 * @param {InferenceOptions} options
 * @param {"mask" | "overlay" | "confidence" | "json"} output
 * @returns {string} relative to the page
 */
export function segmentUrl(model, options, output = "mask") {
  const query = new URLSearchParams({ model });
  if (output !== "mask") query.set("output", output);
  if (options.native) query.set("resolution", "native");
  if (options.flip) query.set("flip", "true");
  return `segment?${query}`;
}

/**
 * Post an image to the service.
 * @param {string} url from `segmentUrl`
 * @param {Blob} file
 * @param {(fraction: number) => void} onProgress receives the uploaded fraction, 1 at the end of the upload
 * @param {AbortSignal | null} signal
 * @returns {Promise<{bytes: ArrayBuffer, header: (name: string) => string | null}>}
 * @throws {ApiError} with the code "aborted" after an abort, "unreadable" if the browser cannot read the file
 */
export function postImage(url, file, onProgress = () => {}, signal = null) {
  return new Promise((resolve, reject) => {
    const rejectAborted = () => reject(new ApiError("The request was cancelled.", { code: "aborted" }));
    if (signal?.aborted) {
      rejectAborted();
      return;
    }
    const xhr = new XMLHttpRequest(); // fetch does not report upload progress
    const header = (name) => xhr.getResponseHeader(name);
    xhr.open("POST", url);
    xhr.responseType = "arraybuffer";
    for (const [name, value] of Object.entries(authHeaders())) xhr.setRequestHeader(name, value);
    xhr.setRequestHeader("Content-Type", "application/octet-stream"); // the service detects the format from the content
    xhr.upload.onprogress = (event) => onProgress(event.lengthComputable ? event.loaded / event.total : 0);
    xhr.upload.onload = () => onProgress(1);
    xhr.onabort = rejectAborted;
    xhr.onerror = async () => {
      const readable = await file.slice(0, 1).arrayBuffer().then(() => true, () => false);
      const unreadable = "This file cannot be read. It may be a folder, or it may have been moved. Choose an image file.";
      reject(readable ? unreachable() : new ApiError(unreadable, { code: "unreadable" }));
    };
    xhr.onload = () => {
      if (xhr.status !== 200) reject(errorFromResponse(xhr.status, new TextDecoder().decode(xhr.response), header));
      else if (header("Segment-Digest") === null) reject(invalidResponse(xhr.status)); // for example the login page of a proxy
      else {
        reportSuccess();
        resolve({ bytes: xhr.response, header });
      }
    };
    const abort = () => xhr.abort();
    signal?.addEventListener("abort", abort);
    xhr.onloadend = () => signal?.removeEventListener("abort", abort); // a signal can outlive many requests
    xhr.send(file);
  });
}
