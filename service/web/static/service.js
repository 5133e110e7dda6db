// What the page asks of the service, and how a refusal reads as a sentence.

const KEY = "segment-key";
const PRINTABLE = /^[\x21-\x7e]+$/; // what a header can hold

/** An answer that is none: `message` is a sentence for people; `code` the service's, "unreachable" where nobody answered. */
export class Refusal extends Error {
  constructor(message, { status = 0, code = "unreachable", after = null } = {}) {
    super(message);
    Object.assign(this, { status, code, after });
  }

  get needsKey() {
    return this.code === "no_key" || this.code === "wrong_role";
  }
}

/** Tells `answered` whenever the service has. */
export const service = new EventTarget();
const answered = () => service.dispatchEvent(new Event("answered"));

/** Send this key from now on, as long as the tab lasts. Whether it can be one. */
export function useKey(key) {
  if (!PRINTABLE.test(key)) return false;
  sessionStorage.setItem(KEY, key);
  return true;
}

/** Send none any more. */
export function forgetKey() {
  sessionStorage.removeItem(KEY);
}

export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

function authorization() {
  const key = sessionStorage.getItem(KEY);
  return key === null ? {} : { Authorization: `Bearer ${key}` };
}

const unreachable = () => new Refusal("The service does not answer. Is it running, and can this machine reach it?");

function refusal(status, text, header) {
  let problem = {};
  try {
    problem = JSON.parse(text);
  } catch { /* something between here and the service answered */ }
  const detail = problem.detail ?? `the answer was ${status}, and not the service's own`;
  const after = Number(header("Retry-After")) || null;
  return new Refusal(`${detail[0].toUpperCase()}${detail.slice(1)}.`, { status, code: problem.code ?? "", after });
}

/** Fetch, with the key; throws Refusal. */
export async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: authorization() });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw unreachable();
  }
  if (!response.ok) throw refusal(response.status, await response.text(), (name) => response.headers.get(name));
  answered();
  return response;
}

/** Where to post a photograph to. */
export function address(model, how, output = "mask") {
  const query = new URLSearchParams({ model });
  if (output !== "mask") query.set("output", output);
  if (how.native) query.set("resolution", "native");
  if (how.flip) query.set("flip", "true");
  return `segment?${query}`;
}

/** Post a photograph: { bytes, headers: name => value }. `sent` is told the share that has gone, 1 when all has. Throws Refusal. */
export function post(path, file, sent = () => {}, signal = null) {
  return new Promise((resolve, reject) => {
    const abandon = () => reject(new Refusal("no longer wanted", { code: "aborted" }));
    if (signal?.aborted) return abandon();
    const request = new XMLHttpRequest(); // fetch does not tell how much has been sent
    request.open("POST", path);
    request.responseType = "arraybuffer";
    for (const [name, value] of Object.entries(authorization())) request.setRequestHeader(name, value);
    request.setRequestHeader("Content-Type", "application/octet-stream"); // the content decides what it is
    request.upload.onprogress = (event) => sent(event.lengthComputable ? event.loaded / event.total : 0);
    request.upload.onload = () => sent(1);
    request.onerror = async () => {
      const readable = await file.slice(0, 1).arrayBuffer().then(() => true, () => false);
      reject(readable ? unreachable() : new Refusal("This file can't be read: is it a folder, or has it been moved?", { code: "unreadable" }));
    };
    request.onabort = abandon;
    signal?.addEventListener("abort", () => request.abort());
    request.onload = () => {
      const header = (name) => request.getResponseHeader(name);
      if (request.status !== 200) return reject(refusal(request.status, new TextDecoder().decode(request.response), header));
      answered();
      resolve({ bytes: request.response, header });
    };
    request.send(file);
  });
}
