// Segment page: the current image under the masks of the selected models, side by side, or live video under those of the first.

import { segmentUrl } from "./api.js";
import { curlCommand, copyText, saveAll, saveOutput } from "./export.js";
import { formatPercent, renderLegend } from "./legend.js";
import { LiveSegmentation } from "./live.js";
import { countLabels, decodeMask, diffMasks } from "./mask.js";
import { MaskViewer } from "./mask-viewer.js";
import { isBeingRead, isUsable, ModelPicker } from "./model-picker.js";
import { RequestQueue } from "./request-queue.js";
import { readSettings, storeSettings } from "./settings.js";
import { Thumbnails } from "./thumbnails.js";

/** @import { ApiError, Model } from "./api.js" */
/** @import { LiveFrame } from "./live.js" */

const ANNOUNCED_CLASSES = 5; // the largest ones; a screen reader would take too long for all
const LEGEND_MS = 1000; // between updates of the legend of live video, which would not be readable if it changed faster
const $ = (id) => document.getElementById(id);
const outputButtons = () => document.querySelectorAll("[data-output]");
const viewButtons = () => [...document.querySelectorAll("[name=view]")];

export class SegmentPage {
  queue = new RequestQueue();
  picker = new ModelPicker($("models"), () => this.#reconfigure());
  #thumbnails = new Thumbnails($("thumbnails"), this.queue);
  #hiddenClasses = new Set(); // names
  #viewers = [];
  #shownImage = null; // the image that the viewers show
  #isSaving = false;
  #live = null; // the LiveSegmentation that the viewer shows in place of an image
  #imageBeforeLive = null;
  #legendTime = 0; // when the legend of live video was updated last
  #digests = new Set(); // those of live masks after which the list of models has been reloaded
  #isRestoring = true; // while the models that the user selected on the last visit may still have to be read

  /**
   * @param {(error: ApiError) => void} onError called with errors that concern the whole page
   * @param {() => Promise<void>} refreshModels reloads the list of models
   */
  constructor(onError, refreshModels) {
    this.onError = onError;
    this.queue.refreshModels = refreshModels;
    this.queue.addEventListener("change", ({ detail: image }) => this.#onQueueChange(image));
    this.queue.addEventListener("error", ({ detail: error }) => {
      if (error.needsKey || error.isTransient) onError(error);
      else this.#announce(error.message); // it is shown with the image that it concerns
    });
    for (const id of ["native", "flip"]) $(id).onchange = () => this.#reconfigure();
    $("models").addEventListener("change", () => {
      this.#isRestoring = false;
      storeSettings({ models: this.picker.selected.map(({ name }) => name) });
    });
    for (const id of ["opacity", "divider"]) $(id).oninput = () => this.#blend();
    $("opacity").onchange = () => storeSettings({ opacity: Number($("opacity").value) });
    for (const button of viewButtons()) {
      button.onchange = () => { storeSettings({ view: button.value }); this.#setView(button.value); };
    }
    $("highlight").onchange = () => this.#showDifferences();
    $("show-all").onclick = () => { this.#hiddenClasses.clear(); this.#repaint(); };
    for (const button of outputButtons()) button.onclick = () => this.#save(button.dataset.output).catch(onError);
    $("download-all").onclick = () => this.#saveAll().catch(onError);
    $("toggle-setup").onclick = () => this.#setCollapsed(!$("input").classList.contains("collapsed"));
    $("live-toggle").onclick = () => (this.#live.isRunning ? this.#live.stop() : this.#runLive());
    $("live-close").onclick = () => this.#closeLive();
    $("copy-command").onclick = () => copyText($("curl-command"), $("copy-command"));
    const { view = "overlay", opacity = $("opacity").value } = readSettings();
    $("opacity").value = opacity;
    this.#setView(view);
  }

  /**
   * Offer the service's models. Those that the user selected on the last visit are selected as soon as they can be.
   * @param {{models: Model[], default: string}} list of `GET /models`
   */
  updateModels(list) {
    const stored = this.#isRestoring ? readSettings().models ?? [] : [];
    this.#isRestoring &&= list.models.some(isBeingRead);
    this.picker.update(list, list.models.filter((model) => isUsable(model) && stored.includes(model.name)));
  }

  /**
   * Add images and segment them.
   * @param {File[]} files
   */
  add(files) {
    this.queue.add(files);
  }

  /**
   * Segment a video file, or the camera, live.
   * @param {File | null} file null for the camera
   */
  async startLive(file) {
    this.#closeLive();
    this.#imageBeforeLive = this.queue.current;
    this.#live = new LiveSegmentation(file);
    this.#live.addEventListener("frame", ({ detail: frame }) => this.#showFrame(frame));
    this.#live.addEventListener("rate", ({ detail: rate }) => {
      $("live-rate").textContent = `${rate.toFixed(1)} frames per second`;
    });
    this.#live.addEventListener("busy", ({ detail: { error, seconds } }) => {
      $("live-status").textContent = `${error.message} Trying again in ${seconds} s.`;
    });
    this.#live.addEventListener("stop", ({ detail: { reason, error } }) => this.#onLiveStop(reason, error));
    this.queue.select(null);
    this.#updateLayout();
    this.#createViewers();
    if (this.#view === "confidence") this.#setView("overlay"); // it is for images only
    await this.#runLive();
  }

  /** Stop live video, for example because another page is shown. */
  stopLive() {
    this.#live?.stop();
  }

  async #runLive() {
    const live = this.#live;
    $("live-toggle").textContent = "Stop";
    $("live-status").textContent = $("live-rate").textContent = "";
    try {
      await live.start();
    } catch (error) {
      if (live !== this.#live) return; // another one has replaced it
      this.#closeLive();
      this.onError(error);
    }
  }

  #onLiveStop(reason, error) {
    $("live-toggle").textContent = "Start";
    $("live-rate").textContent = "";
    const concernsPage = error?.needsKey || error?.isTransient;
    $("live-status").textContent = concernsPage ? "" : reason;
    if (concernsPage) this.onError(error);
  }

  /** Show the images again. */
  #closeLive() {
    if (!this.#live) return;
    if ($("live-bar").contains(document.activeElement)) $("files").focus({ preventScroll: true });
    this.#live.close();
    this.#live = null;
    this.#createViewers();
    if (!this.queue.current) {
      const { images } = this.queue;
      this.queue.select(images.includes(this.#imageBeforeLive) ? this.#imageBeforeLive : images[0] ?? null);
    }
    this.#updateLayout();
  }

  /** @param {LiveFrame} frame */
  #showFrame({ mask, backend, digest, totalMs }) {
    const [viewer] = this.#viewers;
    viewer.setMask(mask, countLabels(mask.labels), this.#hiddenClasses);
    viewer.setBackend(backend, digest);
    viewer.parts.timing.textContent = `${totalMs.toFixed(0)} ms from frame to mask`;
    if (!this.#live.isPaused) $("live-status").textContent = "";
    const now = performance.now();
    // The legend's rows change places: not while the user points at one of them.
    if (now - this.#legendTime > LEGEND_MS && !$("legend").matches(":hover, :focus-within")) {
      this.#legendTime = now;
      this.#updateLegend();
    }
    if (digest !== viewer.model.digest && !this.#digests.has(digest)) {
      this.#digests.add(digest);
      this.queue.refreshModels().catch(this.onError);
    }
  }

  /** Rebuild the viewers after a change of the selected models or of the options. */
  #reconfigure() {
    const { selected } = this.picker;
    $("selected-models").textContent = selected.map(({ name }) => name).join(", ");
    this.#createViewers();
    this.queue.configure(selected, { native: $("native").checked, flip: $("flip").checked });
  }

  #createViewers() {
    const models = this.#live ? this.picker.selected.slice(0, 1) : this.picker.selected;
    document.body.classList.toggle("multi-model", models.length > 1);
    this.#viewers = models.map((model) => this.#createViewer(model));
    $("viewers").replaceChildren(...this.#viewers.map(({ element }) => element));
    this.#shownImage = null;
    if (this.#live && this.#viewers.length) {
      const options = { native: $("native").checked, flip: $("flip").checked };
      this.#live.url = segmentUrl(models[0].name, options);
      this.#viewers[0].setVideo(this.#live.video, this.#live.name);
      this.#updateLegend();
      this.#showDifferences();
    }
    this.#blend();
  }

  get #view() {
    return viewButtons().find(({ checked }) => checked).value;
  }

  #setView(view) {
    for (const button of viewButtons()) button.checked = button.value === view;
    this.queue.requestConfidence(view === "confidence");
    this.#blend();
    if (this.#shownImage) this.#show(this.#shownImage);
  }

  /** Show the result and a bar above it, or everything to start with if there is neither an image nor live video. */
  #updateLayout() {
    const isLive = Boolean(this.#live), hasContent = isLive || this.queue.images.length > 0;
    $("result").hidden = !isLive && !this.queue.current;
    $("live-bar").hidden = !isLive;
    $("exports").hidden = isLive;
    $("divider-label").hidden = isLive;
    viewButtons().find(({ value }) => value === "confidence").disabled = isLive;
    if (hasContent === $("input").classList.contains("compact")) return;
    $("input").classList.toggle("compact", hasContent);
    $("toggle-setup").hidden = !hasContent;
    this.#setCollapsed(hasContent);
  }

  /** Fold away what is above the result but for a bar. The focus moves to the bar instead of getting lost. */
  #setCollapsed(collapsed) {
    const hadFocus = document.activeElement?.closest("#input .foldable");
    $("input").classList.toggle("collapsed", collapsed);
    $("toggle-setup").setAttribute("aria-expanded", String(!collapsed));
    if (collapsed && hadFocus) $("toggle-setup").focus({ preventScroll: true });
  }

  #createViewer(model) {
    const viewer = new MaskViewer(model);
    viewer.addEventListener("divide", ({ detail: position }) => { $("divider").value = position * 100; this.#blend(); });
    viewer.addEventListener("point", ({ detail: { pixel, byKey } }) => {
      const names = this.#viewers.map((other) => other.showPixel(pixel));
      if (!byKey) return; // the pointer would announce a class with every movement
      const agree = new Set(names).size === 1;
      this.#announce(agree ? names[0] : names.map((name, n) => `${this.#viewers[n].model.name}: ${name}`).join(", "));
    });
    return viewer;
  }

  #onQueueChange(image) {
    if (this.#live && this.queue.current) this.#closeLive(); // the user has added or selected an image
    this.#updateLayout();
    this.#updateDownloadAll();
    if (!image) return;
    this.#thumbnails.update(image);
    if (image === this.queue.current) this.#show(image);
  }

  /** Show an image with all masks that have arrived. */
  async #show(image) {
    if (this.#shownImage !== image) {
      this.#shownImage = image;
      this.#viewers.forEach((viewer) => viewer.setImage(image));
      this.#updateLegend();
      this.#showDifferences();
      const [first] = this.#viewers;
      if (first) $("curl-command").textContent = curlCommand(image.name, first.model, this.queue.options);
      $("export-model").textContent = this.#viewers.length > 1 ? `Results of ${first.model.name}:` : "";
    }
    await Promise.all(this.#viewers.map((viewer) => this.#showResult(viewer, image)));
    for (const button of outputButtons()) button.disabled = !this.#viewers[0]?.mask;
  }

  async #showResult(viewer, image) {
    const result = this.queue.result(image, viewer.model);
    const confidence = this.#view === "confidence" ? this.queue.result(image, viewer.model, "confidence") : null;
    viewer.setStatus(result, confidence);
    if (confidence) this.#showConfidence(viewer, confidence);
    if (result.state !== "done" || viewer.decodedResult === result) return;
    viewer.decodedResult = result;
    performance.mark("mask-received"); // the benchmark measures from here to the painted mask
    const mask = await this.#decode(viewer, result);
    if (!mask || viewer.decodedResult !== result) return; // the user has selected another image meanwhile
    viewer.setMask(mask, countLabels(mask.labels), this.#hiddenClasses);
    this.#updateLegend();
    this.#showDifferences();
    performance.measure("show-mask", "mask-received");
    if (this.#viewers.every((other) => other.mask)) this.#announce(`${image.name}: ${this.#largestClasses()}`);
  }

  async #showConfidence(viewer, result) {
    if (result.state !== "done" || viewer.decodedConfidence === result) return;
    viewer.decodedConfidence = result;
    const confidence = await this.#decode(viewer, result);
    if (viewer.decodedConfidence === result) viewer.setConfidence(confidence);
  }

  /** Decode the mask or the confidence of a result; show why that is impossible and return null. */
  async #decode(viewer, { bytes }) {
    try {
      return await decodeMask(bytes);
    } catch (error) { // browsers from before 2023 lack DecompressionStream
      const reason = `The mask cannot be decoded (${error.message}). Use a newer browser, or download the mask.`;
      viewer.setStatus({ state: "failed", error: reason });
      return null;
    }
  }

  /** Have screen readers read a text. */
  #announce(text) {
    $("announcement").textContent = text;
  }

  #largestClasses() {
    const rows = [...$("legend").querySelectorAll(".class")].slice(0, ANNOUNCED_CLASSES);
    return rows.map((row) => [...row.querySelectorAll("span")].map(({ textContent }) => textContent).join(" ")).join(", ");
  }

  #updateLegend() {
    const withMask = this.#viewers.filter(({ mask }) => mask);
    $("legend-columns").hidden = withMask.length < 2;
    $("legend-columns").textContent = `Percentage of pixels: ${withMask.map(({ model }) => model.name).join(", ")}`;
    const entries = this.#viewers.map(({ model, mask, counts }) => ({ classes: model.labels.classes, counts: mask && counts }));
    renderLegend($("legend"), $("legend-absent"), entries, this.#hiddenClasses, () => this.#repaint());
  }

  #repaint() {
    this.#viewers.forEach((viewer) => viewer.repaint(this.#hiddenClasses));
    this.#updateLegend();
  }

  #blend() {
    const view = this.#view, position = this.#live ? 1 : $("divider").value / 100;
    $("opacity-label").hidden = view !== "overlay";
    $("confidence-scale").hidden = view !== "confidence";
    this.#viewers.forEach((viewer) => viewer.setBlend(view, $("opacity").value / 100, position));
  }

  /** Highlight the pixels whose class differs, if all masks are there and all models predict the same classes. */
  #showDifferences() {
    const sameClasses = new Set(this.#viewers.map(({ model }) => JSON.stringify(model.labels.classes))).size === 1;
    const comparable = this.#viewers.length > 1 && sameClasses && this.#viewers.every(({ mask }) => mask);
    $("highlight-label").hidden = !comparable;
    const differences = comparable ? diffMasks(this.#viewers.map(({ mask }) => mask)) : null;
    if (differences) $("difference-fraction").textContent = `(${formatPercent(differences.fraction)} of pixels)`;
    this.#viewers.forEach((viewer) => viewer.setDifferences($("highlight").checked ? differences : null));
  }

  #save(output) {
    const { model, decodedResult } = this.#viewers[0];
    return saveOutput(output, this.#shownImage, model, this.queue.options, decodedResult.bytes);
  }
  /** All masks of the selected models that are done. */
  #finished() {
    return this.queue.images.flatMap((image) => this.picker.selected.flatMap((model) => {
      const { state, bytes } = this.queue.result(image, model);
      return state === "done" ? [{ image, model, mask: bytes }] : [];
    }));
  }

  #updateDownloadAll() {
    if (this.#isSaving) return;
    const count = this.#finished().length;
    $("download-all").hidden = count < 2;
    $("download-all").textContent = `Download all ${count} results (ZIP)`;
  }

  async #saveAll() {
    if (this.#isSaving) return;
    this.#isSaving = true;
    const results = this.#finished();
    const showProgress = (done) => { $("download-all").textContent = `Preparing ${done + 1} of ${results.length}…`; };
    try {
      await saveAll(results, this.queue.options, showProgress);
      this.#announce(`${results.length} results are saved.`);
    } finally {
      this.#isSaving = false;
      this.#updateDownloadAll();
    }
  }
}
