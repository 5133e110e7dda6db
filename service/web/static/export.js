// Export of results: mask, overlay and JSON as files, all of them as a ZIP, and the curl command that produces the same mask.

import { ApiError, hasKey, postImage, segmentUrl } from "./api.js";
import { postUntilAccepted } from "./request-queue.js";
import { createZip } from "./zip.js";

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
  saveFile(new Blob([bytes], { type }), fileName(fileStem(image.name)));
}

/** A file name without its extension. */
const fileStem = (name) => name.replace(/\.[^.]*$/, "");

function saveFile(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), DOWNLOAD_MS);
}

/** A function that appends _2, _3, … to texts that it has returned before, whatever their case. */
function makeUnique() {
  const used = new Set();
  return (text) => {
    let unique = text;
    for (let n = 2; used.has(unique.toLowerCase()); n++) unique = `${text}_${n}`;
    used.add(unique.toLowerCase());
    return unique;
  };
}

/** Whether the requests that follow would fail too. */
const isLasting = ({ needsKey, code }) => needsKey || code === "unreachable";

/**
 * Save the masks and overlays of several results as one ZIP. The overlays are requested one after the other.
 * @param {{image: QueuedImage, model: Model, mask: ArrayBuffer}[]} results
 * @param {InferenceOptions} options
 * @param {(done: number) => void} onProgress called before each overlay is requested
 * @throws {ApiError} after the ZIP is saved, if overlays are missing in it
 */
export async function saveAll(results, options, onProgress) {
  const severalModels = new Set(results.map(({ model }) => model.name)).size > 1;
  const unique = makeUnique(), entries = [], errors = [];
  for (const [index, { image, model, mask }] of results.entries()) {
    const name = severalModels ? `${fileStem(image.name)}_${model.name}` : fileStem(image.name);
    const stem = unique(name.replace(/[\\/:*?"<>|\x00-\x1f]/g, "_")); // not allowed in file names on every system
    entries.push({ name: OUTPUTS.mask.fileName(stem), bytes: mask });
    if (errors.some(isLasting)) continue;
    onProgress(index);
    try {
      const { bytes } = await postUntilAccepted(() => postImage(segmentUrl(model.name, options, "overlay"), image.file));
      entries.push({ name: OUTPUTS.overlay.fileName(stem), bytes });
    } catch (error) {
      errors.push(error);
    }
  }
  saveFile(createZip(entries), "segmentation.zip");
  if (!errors.length) return;
  const { message, status, code } = errors.find(isLasting) ?? errors[0], missing = 2 * results.length - entries.length;
  throw new ApiError(`The ZIP lacks ${missing} of ${results.length} overlays. ${message}`, { status, code });
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
