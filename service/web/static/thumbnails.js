// Thumbnails of the added images with the progress of their masks. A click shows an image; the × button removes it.

/** @import { QueuedImage, RequestQueue } from "./request-queue.js" */

const HEIGHT = 144; // pixels: twice the height in the layout, for displays with a high pixel density

export class Thumbnails {
  #elements = new Map(); // from image to list item
  #drawing = Promise.resolve(); // one at a time: decoding a hundred images at once would exhaust a phone's memory

  /**
   * @param {HTMLElement} list
   * @param {RequestQueue} queue
   */
  constructor(list, queue) {
    this.list = list;
    this.queue = queue;
  }

  /**
   * Show the current progress of an image.
   * @param {QueuedImage} image
   */
  update(image) {
    const button = (this.#elements.get(image) ?? this.#add(image)).firstElementChild;
    const progress = button.querySelector("progress"), status = button.querySelector(".status");
    const results = this.queue.models.map((model) => this.queue.result(image, model));
    const failed = results.find(({ state }) => state === "failed");
    const pending = results.find(({ state }) => state !== "done");
    status.textContent = failed?.error ?? pending?.status ?? (results.length ? "done" : "waiting for the list of models");
    status.className = failed ? "status error" : "status";
    progress.hidden = Boolean(failed) || !pending;
    if (pending?.state === "uploading") progress.value = pending.uploaded;
    else progress.removeAttribute("value"); // without a value it shows activity instead of a fraction
    for (const [other, element] of this.#elements) {
      element.firstElementChild.setAttribute("aria-current", other === this.queue.current ? "true" : "false");
    }
  }

  #add(image) {
    const element = document.createElement("li");
    element.innerHTML = `
      <button type="button">
        <canvas width="288" height="144"></canvas><b></b><progress max="1"></progress><span class="status"></span>
      </button>
      <button type="button" class="remove">×</button>`;
    const [show, remove] = element.children;
    const [canvas, name, progress] = show.children;
    this.#drawing = this.#drawing.then(() => element.isConnected && drawThumbnail(canvas, image.file));
    name.textContent = image.name;
    progress.setAttribute("aria-label", `progress of ${image.name}`);
    remove.setAttribute("aria-label", `remove ${image.name}`);
    show.onclick = () => this.queue.select(image);
    remove.onclick = () => {
      const neighbor = element.nextElementSibling ?? element.previousElementSibling;
      element.remove();
      // Without this the focus would fall back to the top of the page.
      (neighbor?.firstElementChild ?? document.getElementById("files")).focus();
      this.#elements.delete(image);
      this.queue.remove(image);
    };
    this.list.append(element);
    this.#elements.set(image, element);
    return element;
  }
}

/** Draw an image at thumbnail size. Leave a gap if the browser cannot decode it; the service reports what is wrong. */
async function drawThumbnail(canvas, file) {
  try {
    const bitmap = await createImageBitmap(file, { resizeHeight: HEIGHT, resizeQuality: "medium" });
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
  } catch {
    canvas.style.visibility = "hidden";
  }
}
