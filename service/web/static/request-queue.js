// Queue of segmentation requests: every added image by every selected model, two requests at a time, the shown image first.
// The confidence is requested for the shown image only, and only if the page asks for it.

import { ApiError, postImage, segmentUrl } from "./api.js";

/** @import { InferenceOptions, Model } from "./api.js" */

/** What is requested of an image. @typedef {"mask" | "confidence"} Output */

/**
 * An image that the user added, with its results by request key.
 * @typedef {{file: File, name: string, url: string, results: Map<string, Result>, refreshed: Set<string>}} QueuedImage
 *
 * The state of one image by one model.
 * @typedef {object} Result
 * @property {"waiting" | "uploading" | "processing" | "done" | "failed"} state
 * @property {string} [status] the state in words
 * @property {number} [uploaded] fraction, while uploading
 * @property {ArrayBuffer} [bytes] the mask or the confidence as PNG, when done
 * @property {string} [backend]
 * @property {string} [digest] of the model that produced the mask
 * @property {number | null} [serverMs] time in the service, null if a proxy removed the header
 * @property {number} [totalMs] time from the start of the upload to the end of the response
 * @property {string} [error] why there is no mask, when failed
 * @property {boolean} [retryable] whether `retry` requests it again
 */

const MAX_CONCURRENT = 2; // one image uploads while the service processes another; more would only wait in the service
const MAX_ATTEMPTS = 5; // of a request that the service is too busy for

export class RequestQueue extends EventTarget {
  /** @type {QueuedImage[]} */
  images = [];
  /** @type {QueuedImage | null} the image that the page shows */
  current = null;
  /** @type {Model[]} */
  models = [];
  /** @type {InferenceOptions} */
  options = { native: false, flip: false };
  /** Reloads the list of models; the page sets it. */
  refreshModels = async () => {};
  #withConfidence = false;
  #inFlight = new Set();

  /**
   * Add images and show the first of them.
   * @param {Iterable<File>} files
   */
  add(files) {
    const added = [...files].map((file) => (
      { file, name: file.name || "image", url: URL.createObjectURL(file), results: new Map(), refreshed: new Set() }
    ));
    this.images.push(...added);
    if (added.length) this.select(added[0]);
  }

  /**
   * Show an image and move its requests to the front.
   * @param {QueuedImage | null} image null shows none, and starts no request until an image is selected
   */
  select(image) {
    const changed = image ?? this.current;
    this.current = image;
    this.#emitChange(changed);
    this.#schedule();
  }

  /**
   * Remove an image, cancel its requests, and show its neighbor if it was shown.
   * @param {QueuedImage} image
   */
  remove(image) {
    const index = this.images.indexOf(image);
    this.images.splice(index, 1);
    URL.revokeObjectURL(image.url);
    this.#cancelUnneeded();
    if (this.current === image) this.current = this.images[index] ?? this.images[index - 1] ?? null;
    this.#emitChange(this.current);
    this.#schedule(); // a cancelled request has freed its slot
  }

  /**
   * Segment all images by these models with these options from now on.
   * @param {Model[]} models
   * @param {InferenceOptions} options
   */
  configure(models, options) {
    this.models = models;
    this.options = options;
    this.#cancelUnneeded();
    this.images.forEach((image) => this.#emitChange(image));
    this.#schedule();
  }

  /**
   * Request the confidence of the shown image, or cancel that.
   * @param {boolean} wanted
   */
  requestConfidence(wanted) {
    this.#withConfidence = wanted;
    this.#cancelUnneeded();
    this.#schedule();
  }

  /**
   * Return the state of an image by a model.
   * @param {QueuedImage} image
   * @param {Model} model
   * @param {Output} output
   * @returns {Result}
   */
  result(image, model, output = "mask") {
    return image.results.get(this.#key(model, output)) ?? { state: "waiting", status: "waiting" };
  }

  /** Whether `retry` has anything to do. */
  get hasRetryable() {
    return this.images.some((image) => this.#outputs(image).some((output) => (
      this.models.some((model) => this.result(image, model, output).retryable)
    )));
  }

  /** Repeat the requests that failed because the service or a valid key was missing. */
  retry() {
    for (const image of this.images) {
      for (const [key, result] of image.results) if (result.retryable) image.results.delete(key);
      this.#emitChange(image);
    }
    this.#schedule();
  }

  /** What is requested of an image. @returns {Output[]} */
  #outputs(image) {
    return this.#withConfidence && image === this.current ? ["mask", "confidence"] : ["mask"];
  }

  #cancelUnneeded() {
    const outputs = this.#withConfidence ? ["mask", "confidence"] : ["mask"];
    const needed = new Set(outputs.flatMap((output) => this.models.map((model) => this.#key(model, output))));
    for (const task of this.#inFlight) {
      if (this.images.includes(task.image) && needed.has(task.key)) continue;
      task.controller.abort();
      task.image.results.delete(task.key);
      this.#inFlight.delete(task);
    }
  }

  /** The key of a result. It holds the digest, because the mask of a model whose file has changed is another one. */
  #key({ name, digest }, output) {
    return `${segmentUrl(name, this.options, output)} ${digest}`;
  }

  #emitChange(image) {
    this.dispatchEvent(new CustomEvent("change", { detail: image }));
  }

  #schedule() {
    const inOrder = this.current ? [this.current, ...this.images] : [];
    for (const image of inOrder) {
      for (const output of this.#outputs(image)) {
        for (const model of this.models) {
          if (this.#inFlight.size >= MAX_CONCURRENT) return;
          if (!image.results.has(this.#key(model, output))) this.#run(image, model, output);
        }
      }
    }
  }

  async #run(image, model, output) {
    const url = segmentUrl(model.name, this.options, output), key = this.#key(model, output);
    const controller = new AbortController();
    const task = { image, key, controller }, { signal } = controller;
    this.#inFlight.add(task);
    const setResult = (result) => {
      if (signal.aborted) return;
      image.results.set(key, result);
      this.#emitChange(image);
    };
    setResult({ state: "uploading", uploaded: 0, status: "uploading…" });
    try {
      const result = await this.#request(image, url, setResult, signal);
      if (result.digest !== model.digest) await this.#refresh(image, model, output, result);
      setResult(result);
    } catch (error) {
      setResult({ state: "failed", error: error.message, retryable: error.isTransient || error.needsKey });
      if (!signal.aborted) this.dispatchEvent(new CustomEvent("error", { detail: error }));
    } finally {
      this.#inFlight.delete(task);
      this.#schedule();
    }
  }

  /** Reload the list of models: the mask comes from another version than the page knows, whose classes can be others. */
  async #refresh(image, { name }, output, result) {
    const url = segmentUrl(name, this.options, output);
    if (image.refreshed.has(url)) return; // Once is enough: replicas of a service can disagree about the version for good.
    image.refreshed.add(url);
    image.results.set(this.#key({ name, digest: result.digest }, output), result); // so that the new version is not requested again
    await this.refreshModels();
  }

  /** Post an image and return the result. */
  async #request(image, url, setResult, signal) {
    const onProgress = (uploaded) => setResult(uploaded < 1
      ? { state: "uploading", uploaded, status: `uploading: ${Math.round(uploaded * 100)}%` }
      : { state: "processing", status: "processing…" });
    const onBusy = (seconds) => setResult({ state: "processing", status: `server busy, retrying in ${seconds} s` });
    let start;
    const { bytes, header } = await postUntilAccepted(() => {
      start = performance.now();
      return postImage(url, image.file, onProgress, signal);
    }, onBusy, signal);
    return {
      state: "done", status: "done", bytes, backend: header("Segment-Backend"), digest: header("Segment-Digest"),
      serverMs: sumDurations(header("Server-Timing")), totalMs: performance.now() - start,
    };
  }
}

/**
 * Post an image, again if the service is too busy.
 * @template T
 * @param {() => Promise<T>} post
 * @param {(seconds: number) => void} onBusy called before each wait
 * @param {AbortSignal | null} signal ends a wait
 * @returns {Promise<T>}
 * @throws {ApiError} of the last attempt
 */
export async function postUntilAccepted(post, onBusy = () => {}, signal = null) {
  for (let attempt = 1; ; attempt++) {
    try {
      return await post();
    } catch (error) {
      if (error.code !== "overloaded" || attempt === MAX_ATTEMPTS || signal?.aborted) throw error;
      const seconds = error.retryAfter ?? 1;
      onBusy(seconds);
      await sleep(seconds * 1000, signal);
    }
  }
}

/** The sum of a `Server-Timing` header in milliseconds, null without one. */
function sumDurations(header) {
  const durations = [...(header ?? "").matchAll(/dur=([\d.]+)/g)].map((match) => Number(match[1]));
  return durations.length ? durations.reduce((sum, ms) => sum + ms, 0) : null;
}

/** Wait, and stop waiting as soon as the signal is aborted. */
function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new ApiError("The request was cancelled.", { code: "aborted" }));
    }, { once: true });
  });
}
