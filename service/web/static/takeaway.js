// What can be taken away: mask, overlay and JSON as files, and the line for a terminal that makes the same mask.

import { address, hasKey, post } from "./service.js";

const KINDS = {
  mask: { type: "image/png", name: (stem) => `${stem}_mask.png` },
  overlay: { type: "image/jpeg", name: (stem) => `${stem}_overlay.jpg` },
  json: { type: "application/json", name: (stem) => `${stem}.json` },
};
const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** The line: a photograph by a model, as curl sends it. */
export function curlLine(name, model, how) {
  const key = hasKey() ? ` -H "Authorization: Bearer $KEY"` : "";
  const file = `file=@"${name.replace(/["\\]/g, "\\$&")}"`; // quoted once more for curl, to which , and ; mean something
  const url = new URL(address(model.name, how), document.baseURI).href;
  return `curl -sS --fail-with-body${key} -F ${quoted(file)} ${quoted(url)} -o mask.png`;
}

/** Save one of KINDS; the mask is there already, the others are asked for. Throws Refusal. */
export async function save(output, item, model, how, mask) {
  const bytes = output === "mask" ? mask : (await post(address(model.name, how, output), item.file)).bytes;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([bytes], { type: KINDS[output].type }));
  link.download = KINDS[output].name(item.name.replace(/\.[^.]*$/, ""));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // the browser may still be writing
}

/** Copy an element's text, and say so on the button. */
export async function copy(element, button) {
  try {
    await navigator.clipboard.writeText(element.textContent);
  } catch { // an address without https that is not this machine's has no clipboard
    getSelection().selectAllChildren(element);
    document.execCommand("copy");
  }
  const label = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = label; }, 2000);
}
