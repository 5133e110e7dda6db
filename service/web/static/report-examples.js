// Examples of a report: the images with the lowest and the highest mIoU, each beside its label and the model's mask.

import { fetchExample, postImage, segmentUrl } from "./api.js";
import { postUntilAccepted } from "./request-queue.js";

/** @import { Evaluation } from "./evaluation-table.js" */

const TITLES = { worst: "Worst images by mIoU of the classes in the label", best: "Best images" };
const PARTS = ["Image", "Label", "Mask"];

/**
 * Render the examples of a report. The images are empty until `loadExamples` has run.
 * @param {Evaluation} evaluation with its report
 * @returns {HTMLElement}
 */
export function renderExamples({ report: { examples } }) {
  const section = document.createElement("section");
  section.className = "report-examples";
  section.hidden = !examples.worst.length; // a report of an earlier release
  section.innerHTML = `<p class="error" role="status"></p><div class="report-parts"></div>`;
  for (const [key, title] of Object.entries(TITLES)) {
    if (!examples[key].length) continue;
    const list = document.createElement("div");
    list.innerHTML = "<h3></h3>";
    list.firstChild.textContent = title;
    list.append(...examples[key].map(renderExample));
    section.lastChild.append(list);
  }
  return section;
}

function renderExample({ name, miou_present: miou }) {
  const figure = document.createElement("figure");
  figure.className = "example";
  figure.innerHTML = `<figcaption><span></span><small></small></figcaption><div class="example-parts"></div>`;
  const [caption, parts] = figure.children;
  caption.firstChild.textContent = name;
  caption.lastChild.textContent = `mIoU ${miou.toFixed(3)}`;
  for (const part of PARTS) {
    const cell = document.createElement("div");
    const image = Object.assign(document.createElement("img"), { alt: `${part} of ${name}` });
    cell.append(image, Object.assign(document.createElement("small"), { textContent: part }));
    parts.append(cell);
  }
  return figure;
}

/**
 * Load the images and labels from the service's dataset, and segment the images as the segment page does.
 * @param {HTMLElement} section from `renderExamples`
 * @param {Evaluation} evaluation with its report
 * @param {AbortSignal} signal
 */
export async function loadExamples(section, { id, model, report }, signal) {
  const message = section.querySelector(".error");
  const figures = section.querySelectorAll("figure"), url = segmentUrl(model, { native: false, flip: false });
  try {
    for (const [n, { index }] of [...report.examples.worst, ...report.examples.best].entries()) {
      const [image, label, mask] = figures[n].querySelectorAll("img");
      const file = await fetchExample(id, index, "image", signal);
      show(image, file);
      show(label, await fetchExample(id, index, "label", signal));
      const { bytes, header } = await postUntilAccepted(() => postImage(url, file, undefined, signal), undefined, signal);
      show(mask, new Blob([bytes], { type: "image/png" }));
      if (header("Segment-Digest") !== report.checkpoint.digest) {
        message.textContent = "The model has been replaced since the evaluation; the masks are those of the new one.";
      }
    }
  } catch (error) {
    if (!signal.aborted) message.textContent = error.message;
  }
}

function show(image, blob) {
  const url = URL.createObjectURL(blob);
  image.onload = image.onerror = () => URL.revokeObjectURL(url);
  image.src = url;
}
