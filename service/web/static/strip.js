// The strip of photographs: small pictures with how far their masks are; a click shows one, another removes it.

const HEIGHT = 144; // pixels of a small picture, twice what it is shown at, for fine screens

export class Strip {
  #elements = new Map();
  #drawn = Promise.resolve(); // one after another: a hundred photographs at once would fill a phone's memory

  constructor(list, photographs) {
    this.list = list;
    this.photographs = photographs;
  }

  /** Show how far a photograph is. */
  update(item) {
    const button = (this.#elements.get(item) ?? this.#add(item)).firstElementChild;
    const [, , progress, told] = button.children;
    const results = this.photographs.models.map((model) => this.photographs.result(item, model));
    const failed = results.find(({ state }) => state === "failed");
    const going = results.find(({ state }) => state !== "done");
    told.textContent = failed?.error ?? going?.told ?? (results.length ? "done" : "waiting for the models");
    told.className = failed ? "told bad" : "told";
    progress.hidden = Boolean(failed) || !going;
    if (going?.state === "sending") progress.value = going.sent;
    else progress.removeAttribute("value");
    for (const [each, element] of this.#elements) {
      element.firstElementChild.setAttribute("aria-current", each === this.photographs.current ? "true" : "false");
    }
  }

  #add(item) {
    const element = document.createElement("li");
    element.innerHTML = `<button type="button"><canvas width="288" height="144"></canvas><b></b><progress max="1"></progress><span class="told"></span></button>
      <button type="button" class="remove">×</button>`;
    const [show, remove] = element.children;
    const [picture, name, progress] = show.children;
    this.#drawn = this.#drawn.then(() => element.isConnected && draw(picture, item.file));
    name.textContent = item.name;
    progress.setAttribute("aria-label", `progress of ${item.name}`);
    remove.setAttribute("aria-label", `remove ${item.name}`);
    show.onclick = () => this.photographs.choose(item);
    remove.onclick = () => {
      const next = element.nextElementSibling ?? element.previousElementSibling;
      element.remove();
      (next?.firstElementChild ?? document.getElementById("files")).focus();
      this.#elements.delete(item);
      this.photographs.remove(item);
    };
    this.list.append(element);
    this.#elements.set(item, element);
    return element;
  }
}

/** Draw a photograph small; what is no picture, or none that the browser knows, is left out. */
async function draw(canvas, file) {
  try {
    const small = await createImageBitmap(file, { resizeHeight: HEIGHT, resizeQuality: "medium" });
    canvas.width = small.width;
    canvas.height = small.height;
    canvas.getContext("2d").drawImage(small, 0, 0);
    small.close();
  } catch {
    canvas.style.visibility = "hidden";
  }
}
