// Segment page: the current image under the masks of the selected models, side by side.

import { curlCommand, copyText, saveOutput } from "./export.js";
import { formatPercent, renderLegend } from "./legend.js";
import { countLabels, decodeMask, diffMasks } from "./mask.js";
import { MaskViewer } from "./mask-viewer.js";
import { ModelPicker } from "./model-picker.js";
import { RequestQueue } from "./request-queue.js";
import { Thumbnails } from "./thumbnails.js";

/** @import { ApiError } from "./api.js" */

const ANNOUNCED_CLASSES = 5; // the largest ones; a screen reader would take too long for all
const $ = (id) => document.getElementById(id);
const outputButtons = () => document.querySelectorAll("[data-output]");

export class SegmentPage {
  queue = new RequestQueue();
  picker = new ModelPicker($("models"), () => this.#reconfigure());
  #thumbnails = new Thumbnails($("thumbnails"), this.queue);
  #hiddenClasses = new Set(); // names
  #viewers = [];
  #shownImage = null; // the image that the viewers show

  /**
   * @param {(error: ApiError) => void} onError called with errors that concern the whole page
   * @param {() => Promise<void>} refreshModels reloads the list of models
   */
  constructor(onError, refreshModels) {
    this.queue.refreshModels = refreshModels;
    this.queue.addEventListener("change", ({ detail: image }) => this.#onQueueChange(image));
    this.queue.addEventListener("error", ({ detail: error }) => {
      if (error.needsKey || error.isTransient) onError(error);
      else this.#announce(error.message); // it is shown with the image that it concerns
    });
    for (const id of ["native", "flip"]) $(id).onchange = () => this.#reconfigure();
    for (const id of ["opacity", "divider"]) $(id).oninput = () => this.#blend();
    $("highlight").onchange = () => this.#showDifferences();
    $("show-all").onclick = () => { this.#hiddenClasses.clear(); this.#repaint(); };
    for (const button of outputButtons()) button.onclick = () => this.#save(button.dataset.output).catch(onError);
    $("copy-command").onclick = () => copyText($("curl-command"), $("copy-command"));
  }

  /**
   * Add images and segment them.
   * @param {File[]} files
   */
  add(files) {
    document.body.classList.add("has-images");
    this.queue.add(files);
  }

  /** Rebuild the viewers after a change of the selected models or of the options. */
  #reconfigure() {
    const { selected } = this.picker;
    document.body.classList.toggle("multi-model", selected.length > 1);
    this.#viewers = selected.map((model) => this.#createViewer(model));
    $("viewers").replaceChildren(...this.#viewers.map(({ element }) => element));
    this.#shownImage = null;
    this.queue.configure(selected, { native: $("native").checked, flip: $("flip").checked });
    this.#blend();
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
    $("result").hidden = !this.queue.current;
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
    viewer.setStatus(result);
    if (result.state !== "done" || viewer.decodedResult === result) return;
    viewer.decodedResult = result;
    performance.mark("mask-received"); // the benchmark measures from here to the painted mask
    let mask;
    try {
      mask = await decodeMask(result.bytes);
    } catch (error) { // browsers from before 2023 lack DecompressionStream
      const reason = `The mask cannot be decoded (${error.message}). Use a newer browser, or download the mask.`;
      viewer.setStatus({ state: "failed", error: reason });
      return;
    }
    if (viewer.decodedResult !== result) return; // the user has selected another image meanwhile
    viewer.setMask(mask, countLabels(mask.labels), this.#hiddenClasses);
    this.#updateLegend();
    this.#showDifferences();
    performance.measure("show-mask", "mask-received");
    if (this.#viewers.every((other) => other.mask)) this.#announce(`${image.name}: ${this.#largestClasses()}`);
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
    renderLegend($("legend"), entries, this.#hiddenClasses, () => this.#repaint());
  }

  #repaint() {
    this.#viewers.forEach((viewer) => viewer.repaint(this.#hiddenClasses));
    this.#updateLegend();
  }

  #blend() {
    this.#viewers.forEach((viewer) => viewer.setBlend($("opacity").value / 100, $("divider").value / 100));
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
}
