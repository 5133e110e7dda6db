// An image or a video under the mask of one model, with opacity, a divider between mask and image, and the class of a pixel.

import { colorTable, grayTable, packColor, paintMask } from "./mask.js";

/** @import { Model } from "./api.js" */
/** @import { Mask } from "./mask.js" */
/** @import { QueuedImage, Result } from "./request-queue.js" */

const DIFFERENCE_COLORS = new Uint32Array([0, packColor(255, 255, 255, 230)]); // transparent, white
const HINT = "Point at the mask to see the class of a pixel.";
const LABEL_HEIGHT = 64; // pixels of the layout: closer to the upper edge, the class label is below the pointer
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * Dispatches `point` with { pixel: {x, y} | null, byKey } when the user points at a pixel or leaves the image, and
 * `divide` with the new position of the divider, 0 to 1.
 */
export class MaskViewer extends EventTarget {
  /** @type {Mask | null} */
  mask = null;
  /** @type {Result | null} the result that the mask was decoded from */
  decodedResult = null;
  /** @type {Uint32Array | null} pixels by label value */
  counts = null;
  /** @type {Result | null} the result that the confidence was decoded from */
  decodedConfidence = null;
  #confidence = null; // has the size of the mask
  #view = "overlay";
  #hiddenClasses = new Set();
  #pixel = null; // the pixel that the pointer or the arrow keys selected last
  #shownPixel = null; // null after the pointer has left the image

  /** @param {Model} model */
  constructor(model) {
    super();
    this.model = model;
    this.element = document.createElement("figure");
    this.element.innerHTML = `
      <figcaption>
        <span><b></b> <details class="info" hidden><summary><i aria-hidden="true">i</i></summary><span class="backend"></span>
        </details></span>
        <small class="timing"></small>
      </figcaption>
      <div class="viewport" tabindex="0" role="application" aria-roledescription="image with mask">
        <img alt=""><canvas class="mask"></canvas><canvas class="differences" hidden></canvas>
        <i class="divider" hidden></i><i class="crosshair" hidden></i>
        <span class="class-label" aria-hidden="true" hidden><i class="swatch"></i><span></span></span>
        <div class="pending" hidden><span></span><progress max="1"></progress></div>
      </div>
      <div class="pixel-info"><i class="swatch" hidden></i><span></span></div>`;
    const find = (selector) => this.element.querySelector(selector);
    this.parts = {
      info: find(".info"), backend: find(".backend"), timing: find(".timing"), viewport: find(".viewport"),
      image: find("img"), mask: find(".mask"), differences: find(".differences"), divider: find(".divider"),
      pending: find(".pending"), pendingText: find(".pending span"), progress: find("progress"),
      crosshair: find(".crosshair"), swatch: find(".pixel-info .swatch"), pixelText: find(".pixel-info span"),
      classLabel: find(".class-label"), classSwatch: find(".class-label .swatch"), className: find(".class-label span"),
    };
    find("b").textContent = model.name;
    find("summary").setAttribute("aria-label", `back end and digest of ${model.name}`);
    this.#bindEvents();
  }

  /**
   * Show an image without a mask.
   * @param {QueuedImage} queued
   */
  setImage(queued) {
    this.mask = this.decodedResult = this.decodedConfidence = this.#confidence = this.#pixel = null;
    this.showPixel(null);
    this.setDifferences(null);
    const { image, viewport, progress, mask, divider } = this.parts;
    mask.hidden = divider.hidden = true;
    image.hidden = true; // until it has loaded: a file that is not an image never does
    image.onload = () => {
      image.hidden = false;
      viewport.style.setProperty("--aspect", image.naturalWidth / image.naturalHeight);
    };
    image.src = queued.url;
    viewport.setAttribute("aria-label", `${queued.name} segmented by ${this.model.name}: arrow keys select a pixel`);
    progress.setAttribute("aria-label", `progress of ${queued.name} by ${this.model.name}`);
  }

  /**
   * Show a video, whose masks follow, in place of an image.
   * @param {HTMLVideoElement} video
   * @param {string} name
   */
  setVideo(video, name) {
    const { image, viewport } = this.parts;
    image.replaceWith(video);
    this.parts.image = video;
    this.element.classList.add("live");
    viewport.setAttribute("aria-label", `${name} segmented by ${this.model.name}: arrow keys select a pixel`);
    const showAspect = () => video.videoWidth && viewport.style.setProperty("--aspect", video.videoWidth / video.videoHeight);
    video.onresize = showAspect;
    showAspect();
    this.showPixel(null);
  }

  /**
   * Show the progress of the request, its timing, or why it failed.
   * @param {Result} result of the mask
   * @param {Result | null} confidence of the confidence, if that is wanted
   */
  setStatus(result, confidence = null) {
    const { pending, pendingText, progress, timing } = this.parts;
    const done = result.state === "done", failed = Boolean(result.error);
    const { state, error, status, uploaded } = done && confidence ? confidence : result;
    pending.hidden = state === "done";
    this.element.classList.toggle("failed", failed);
    pendingText.textContent = error ?? (done ? `confidence: ${status}` : status);
    pendingText.className = error ? "error" : "";
    progress.hidden = Boolean(error);
    if (state === "uploading") progress.value = uploaded;
    else progress.removeAttribute("value");
    const serverTime = done && result.serverMs !== null ? `${result.serverMs.toFixed(0)} ms server, ` : "";
    timing.textContent = done ? `${serverTime}${result.totalMs.toFixed(0)} ms total` : "";
    this.setBackend(done ? result.backend : "", result.digest);
  }

  /**
   * Show which back end and which weights produced the mask.
   * @param {string} backend empty hides both
   * @param {string} digest
   */
  setBackend(backend, digest) {
    this.parts.info.hidden = !backend;
    this.parts.backend.textContent = backend ? `${backend}, digest ${digest}` : "";
  }

  /**
   * Show a mask over the image.
   * @param {Mask} mask
   * @param {Uint32Array} counts pixels by label value
   * @param {Set<string>} hidden names of the classes to leave transparent
   */
  setMask(mask, counts, hidden) {
    const isResized = this.mask && (mask.width !== this.mask.width || mask.height !== this.mask.height);
    if (isResized) this.#pixel = this.#shownPixel = null; // its coordinates mean another place in the new mask
    this.mask = mask;
    this.counts = counts;
    const isImage = this.parts.image.tagName === "IMG"; // a video has set its aspect ratio itself
    if (isImage) this.parts.viewport.style.setProperty("--aspect", mask.width / mask.height);
    this.parts.mask.hidden = this.parts.divider.hidden = false;
    this.repaint(hidden);
    this.showPixel(this.#shownPixel); // or the hint
  }

  /**
   * Take over the confidence of each pixel's class.
   * @param {Mask | null} confidence of the size of the mask, 0 to 255
   */
  setConfidence(confidence) {
    this.#confidence = confidence;
    this.repaint(this.#hiddenClasses);
    this.showPixel(this.#shownPixel);
  }

  /**
   * Paint the mask again.
   * @param {Set<string>} hidden names of the classes to leave transparent
   */
  repaint(hidden) {
    this.#hiddenClasses = hidden;
    if (!this.mask) return;
    if (this.#view === "confidence" && this.#confidence) paintMask(this.parts.mask, this.#confidence, grayTable);
    else paintMask(this.parts.mask, this.mask, colorTable(this.model.labels.classes, hidden));
  }

  /**
   * Stripe the pixels that differ between models.
   * @param {Mask | null} mask from `diffMasks`; null removes the stripes
   */
  setDifferences(mask) {
    this.parts.differences.hidden = !mask;
    if (mask) paintMask(this.parts.differences, mask, DIFFERENCE_COLORS, true);
  }

  /**
   * Blend mask and image.
   * @param {"overlay" | "mask" | "confidence"} view what covers the image: until the confidence arrives, it is the mask
   * @param {number} opacity of the overlay, 0 to 1; the others are opaque
   * @param {number} position of the divider, 0 to 1: the mask covers the image up to here
   */
  setBlend(view, opacity, position) {
    const { mask, differences, divider } = this.parts;
    const viewChanged = view !== this.#view;
    this.#view = view;
    if (viewChanged) this.repaint(this.#hiddenClasses);
    mask.style.opacity = view === "overlay" ? opacity : 1;
    mask.style.clipPath = differences.style.clipPath = `inset(0 ${100 - position * 100}% 0 0)`;
    divider.style.left = `${position * 100}%`;
    divider.style.setProperty("--position", position); // keeps the handle inside the image at both ends
  }

  /**
   * Mark a pixel and show its class.
   * @param {{x: number, y: number} | null} pixel null removes the mark
   * @returns {string} the name of the class, empty without a pixel or a mask
   */
  showPixel(pixel) {
    const { crosshair, swatch, pixelText, viewport, classLabel, classSwatch, className } = this.parts;
    const visible = pixel && this.mask;
    this.#shownPixel = pixel;
    crosshair.hidden = swatch.hidden = classLabel.hidden = !visible;
    pixelText.innerHTML = "<span></span> <small></small>";
    const [nameText, details] = pixelText.children;
    if (!visible) {
      details.textContent = this.mask ? HINT : "";
      return "";
    }
    const { width, height, labels } = this.mask;
    const left = (pixel.x + 0.5) / width, top = (pixel.y + 0.5) / height, index = pixel.y * width + pixel.x;
    for (const { style } of [crosshair, classLabel]) {
      style.left = `${left * 100}%`;
      style.top = `${top * 100}%`;
    }
    classLabel.style.setProperty("--left", left); // moves the label to the left as far as it is to the right: it stays inside
    classLabel.classList.toggle("below", top * viewport.clientHeight < LABEL_HEIGHT);
    const label = this.model.labels.classes[labels[index]];
    const name = label?.name ?? "void";
    for (const { style } of [swatch, classSwatch]) style.setProperty("--color", label ? `rgb(${label.color})` : "none");
    nameText.textContent = name;
    const confidence = this.#confidence ? ` ${Math.round((this.#confidence.labels[index] / 255) * 100)}%` : "";
    className.textContent = `${name}${confidence}`;
    details.textContent = `${label ? `rgb ${label.color.join(", ")}, ` : ""}x ${pixel.x}, y ${pixel.y}`;
    return name;
  }

  #bindEvents() {
    const { viewport, divider } = this.parts;
    const emitPoint = (pixel, byKey = false) => this.dispatchEvent(new CustomEvent("point", { detail: { pixel, byKey } }));
    const clamp = (value, size) => Math.min(size - 1, Math.max(0, value));
    const pixelAt = ({ clientX, clientY }) => {
      const box = viewport.getBoundingClientRect();
      const { width, height } = this.mask;
      return {
        x: clamp(Math.floor(((clientX - box.left) / box.width) * width), width),
        y: clamp(Math.floor(((clientY - box.top) / box.height) * height), height),
      };
    };
    const onPointer = (event) => this.mask && emitPoint((this.#pixel = pixelAt(event)));

    divider.addEventListener("pointerdown", (event) => { event.preventDefault(); divider.setPointerCapture(event.pointerId); });
    divider.addEventListener("pointermove", (event) => {
      if (!divider.hasPointerCapture(event.pointerId)) return;
      event.stopPropagation(); // while it drags the divider, the pointer selects no pixel
      const box = viewport.getBoundingClientRect();
      this.dispatchEvent(new CustomEvent("divide", { detail: (event.clientX - box.left) / box.width }));
    });
    viewport.addEventListener("pointermove", onPointer);
    viewport.addEventListener("pointerdown", onPointer);
    viewport.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && emitPoint(null));
    viewport.addEventListener("blur", () => emitPoint(null));
    viewport.addEventListener("keydown", (event) => {
      const direction = ARROWS[event.key];
      // With Alt, Ctrl or Cmd the arrow keys belong to the browser, for example to go back.
      if (!direction || !this.mask || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      const { width, height } = this.mask;
      const from = this.#pixel ?? { x: width >> 1, y: height >> 1 };
      const step = Math.max(1, Math.round(width / (event.shiftKey ? 400 : 40)));
      this.#pixel = { x: clamp(from.x + direction[0] * step, width), y: clamp(from.y + direction[1] * step, height) };
      emitPoint(this.#pixel, true);
    });
  }
}
