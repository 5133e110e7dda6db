// Live segmentation of a camera or a video file: the latest frame is segmented as fast as the service answers.

import { postImage } from "./api.js";
import { openCamera } from "./camera.js";
import { decodeMask } from "./mask.js";

/** @import { ApiError } from "./api.js" */
/** @import { Mask } from "./mask.js" */

/**
 * A frame that the service has segmented.
 * @typedef {{mask: Mask, backend: string, digest: string, totalMs: number}} LiveFrame
 */

const MAX_IN_FLIGHT = 2; // one frame travels while the service processes another; more would only be older when they arrive
const JPEG_QUALITY = 0.85;
const RATE_WINDOW_MS = 2000; // over which the frame rate is measured
const RATE_INTERVAL_MS = 500; // between updates of the frame rate
const MAX_BACKOFF_S = 30;
const BUSY_STATUSES = [429, 503]; // 429 comes from proxies that limit the rate of requests

/**
 * Return the frame rate of the last two seconds, or since the start if that is less.
 * @param {number[]} times of the frames, in milliseconds
 * @param {number} start in milliseconds
 * @param {number} now in milliseconds
 * @returns {number} frames per second
 */
export function frameRate(times, start, now) {
  const duration = Math.min(RATE_WINDOW_MS, now - start);
  return duration > 0 ? (times.filter((time) => time > now - duration).length / duration) * 1000 : 0;
}

const nextAnimationFrame = () => new Promise((resolve) => requestAnimationFrame(resolve));

/**
 * Dispatches `frame` with a LiveFrame, `rate` with the frames per second, `busy` with an ApiError and the seconds until the
 * next request ({ error, seconds }), and `stop` with { reason, error }: the reason is a sentence for the user, empty if the
 * user has stopped it; the error is the ApiError that has stopped it, or null.
 */
export class LiveSegmentation extends EventTarget {
  video = Object.assign(document.createElement("video"), { muted: true, playsInline: true });
  /** The URL to post frames to; it may change at any time, and is empty until the models are known. */
  url = "";
  #run = null; // the AbortController of the current run, null while it is stopped
  #pausedUntil = 0; // while the service is busy
  #failedAttempts = 0; // since the last success
  #captured = 0; // number of the latest frame that was captured
  #shown = 0; // number of the latest frame whose mask was dispatched
  #frameTime = -1; // position in the video of the latest captured frame
  #times = []; // when the masks of the last frames arrived

  /** @param {File | null} file a video, null for the camera */
  constructor(file) {
    super();
    this.file = file;
    this.name = file ? file.name || "video" : "camera";
    if (file) this.video.src = URL.createObjectURL(file);
    document.addEventListener("visibilitychange", this.#onVisibilityChange);
  }

  get isRunning() {
    return this.#run !== null;
  }

  /** Whether it waits because the service is busy. */
  get isPaused() {
    return performance.now() < this.#pausedUntil;
  }

  /**
   * Play the video, or open the camera, and segment its frames until `stop`.
   * @throws {Error} whose message says why the video or the camera cannot be shown
   */
  async start() {
    this.stop();
    const run = (this.#run = new AbortController()), { signal } = run;
    try {
      await (this.file ? this.#playFile() : this.#playCamera(signal));
    } catch (error) {
      if (signal.aborted) return; // stopped while the camera was opening
      this.#end();
      throw error;
    }
    if (signal.aborted) return;
    this.#pausedUntil = this.#failedAttempts = 0;
    this.#frameTime = -1;
    this.#times = [];
    this.#reportRate(signal);
    Promise.all(Array.from({ length: MAX_IN_FLIGHT }, () => this.#segmentFrames(signal))).then(() => {
      if (!signal.aborted) this.stop("The video has ended.");
    });
  }

  /**
   * Stop the video and the camera, and cancel the requests in flight.
   * @param {string} reason a sentence for the user
   * @param {ApiError | null} error
   */
  stop(reason = "", error = null) {
    if (!this.#run) return;
    this.#end();
    this.dispatchEvent(new CustomEvent("stop", { detail: { reason, error } }));
  }

  /** Stop, and free the video file. */
  close() {
    this.stop();
    document.removeEventListener("visibilitychange", this.#onVisibilityChange);
    if (this.file) URL.revokeObjectURL(this.video.src);
  }

  #onVisibilityChange = () => {
    if (document.hidden) this.stop("Stopped because this tab was in the background.");
  };

  #end() {
    this.#run.abort();
    this.#run = null;
    this.video.pause();
    for (const track of this.video.srcObject?.getTracks() ?? []) track.stop();
  }

  async #playFile() {
    try {
      await this.video.play();
      if (!this.video.videoWidth) throw new Error("no video track that it can decode");
    } catch {
      throw new Error(`This browser cannot play ${this.name}. Choose a video in MP4 (H.264) or WebM format.`);
    }
    // The file can still turn out to be damaged further on.
    this.video.onerror = () => this.stop(`This browser cannot decode the rest of ${this.name}.`);
  }

  async #playCamera(signal) {
    try {
      const stream = await openCamera();
      if (signal.aborted) {
        for (const track of stream.getTracks()) track.stop();
        return;
      }
      for (const track of stream.getTracks()) track.onended = () => this.stop("The camera was disconnected.");
      this.video.srcObject = stream;
      await this.video.play();
    } catch (error) {
      throw new Error(`The camera is not available (${error.message}). Choose a video file instead.`);
    }
  }

  /** Report the frame rate in intervals: it falls also while no frame arrives. */
  #reportRate(signal) {
    const start = performance.now();
    const timer = setInterval(() => {
      this.dispatchEvent(new CustomEvent("rate", { detail: frameRate(this.#times, start, performance.now()) }));
    }, RATE_INTERVAL_MS);
    signal.addEventListener("abort", () => clearInterval(timer));
  }

  /** Segment one frame after the other, always the latest one, until the run or the video ends, the last frame included. */
  async #segmentFrames(signal) {
    const canvas = document.createElement("canvas");
    while (!signal.aborted) {
      await nextAnimationFrame();
      const { currentTime, readyState, ended } = this.video, isNew = currentTime !== this.#frameTime;
      if (ended && !isNew) return;
      const isReady = isNew && readyState >= HTMLMediaElement.HAVE_CURRENT_DATA;
      if (signal.aborted || !isReady || !this.url || this.isPaused) continue;
      this.#frameTime = currentTime;
      try {
        await this.#segmentFrame(canvas, signal);
      } catch (error) {
        if (signal.aborted) return;
        if (BUSY_STATUSES.includes(error.status)) this.#backOff(error);
        else this.stop(error.message, error);
      }
    }
  }

  async #segmentFrame(canvas, signal) {
    const number = ++this.#captured, { url } = this, start = performance.now();
    const { bytes, header } = await postImage(url, await this.#capture(canvas), undefined, signal);
    const mask = await decodeMask(bytes);
    this.#failedAttempts = 0;
    if (signal.aborted || number < this.#shown || url !== this.url) return; // a later frame has overtaken it
    this.#shown = number;
    const now = performance.now();
    this.#times = [...this.#times.filter((time) => time > now - RATE_WINDOW_MS), now];
    const frame = { mask, backend: header("Segment-Backend"), digest: header("Segment-Digest"), totalMs: now - start };
    this.dispatchEvent(new CustomEvent("frame", { detail: frame }));
  }

  /** Return the current frame as JPEG, at the size of the video on the page, or at its own size if that is smaller. */
  #capture(canvas) {
    const { videoWidth, videoHeight, clientWidth } = this.video;
    canvas.width = Math.max(1, Math.min(videoWidth, clientWidth));
    canvas.height = Math.max(1, Math.round((canvas.width / videoWidth) * videoHeight));
    canvas.getContext("2d").drawImage(this.video, 0, 0, canvas.width, canvas.height);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", JPEG_QUALITY));
  }

  /** Send nothing for as long as the service asks for, or longer from failure to failure if it does not say. */
  #backOff(error) {
    if (this.isPaused && !error.retryAfter) return; // the other request in flight has failed for the same reason
    const seconds = error.retryAfter ?? Math.min(MAX_BACKOFF_S, 2 ** this.#failedAttempts);
    this.#failedAttempts++;
    this.#pausedUntil = Math.max(this.#pausedUntil, performance.now() + seconds * 1000);
    this.dispatchEvent(new CustomEvent("busy", { detail: { error, seconds } }));
  }
}
