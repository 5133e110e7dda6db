// Export of a result: mask, overlay and JSON as files, and the curl command that produces the same mask.

import { hasKey, postImage, segmentUrl } from "./api.js";

/** @import { InferenceOptions, Model } from "./api.js" */
/** @import { QueuedImage } from "./request-queue.js" */

const OUTPUTS = {
  mask: { type: "image/png", fileName: (stem) => `${stem}_mask.png` },
  overlay: { type: "image/jpeg", fileName: (stem) => `${stem}_overlay.jpg` },
  json: { type: "application/json", fileName: (stem) => `${stem}.json` },
};
const COPIED_MS = 2000; // for which the button confirms that the command was copied
const DOWNLOAD_MS = 60_000; // after which a download certainly no longer reads the object URL

const shellQuote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/**
 * Return the curl command that segments an image.
 * @param {string} fileName
 * @param {Model} model
 * @param {InferenceOptions} options
 * @returns {string}
 */
export function curlCommand(fileName, model, options) {
  const key = hasKey() ? ` -H "Authorization: Bearer $KEY"` : ""; // the key itself never appears on the page
  const file = `file=@"${fileName.replace(/["\\]/g, "\\$&")}"`; // quoted for curl too, to which , and ; have a meaning
  const url = new URL(segmentUrl(model.name, options), document.baseURI).href;
  return `curl -sS --fail-with-body${key} -F ${shellQuote(file)} ${shellQuote(url)} -o mask.png`;
}

/**
 * Save an output as a file. The mask is there already; the others are requested.
 * @param {"mask" | "overlay" | "json"} output
 * @param {QueuedImage} image
 * @param {Model} model
 * @param {InferenceOptions} options
 * @param {ArrayBuffer} mask as PNG
 * @throws {ApiError}
 */
export async function saveOutput(output, image, model, options, mask) {
  const bytes = output === "mask" ? mask : (await postImage(segmentUrl(model.name, options, output), image.file)).bytes;
  const { type, fileName } = OUTPUTS[output];
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([bytes], { type }));
  link.download = fileName(image.name.replace(/\.[^.]*$/, ""));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), DOWNLOAD_MS);
}

/**
 * Copy an element's text and confirm it on the button.
 * @param {HTMLElement} element
 * @param {HTMLButtonElement} button
 */
export async function copyText(element, button) {
  try {
    await navigator.clipboard.writeText(element.textContent);
  } catch { // the clipboard API needs https or localhost
    getSelection().selectAllChildren(element);
    document.execCommand("copy");
  }
  const label = button.dataset.label ??= button.textContent; // a second click would read "Copied"
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = label; }, COPIED_MS);
}
