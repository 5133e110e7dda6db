// One photograph under one mask: opacity, the edge between mask and photograph, and the pixel that is pointed at.

import { colours, paint, rgba } from "./labels.js";

const DIFFERS = new Uint32Array([0, rgba(255, 255, 255, 230)]);

export class View extends EventTarget {
  /** `point` events carry { place, byKey }, the pixel { x, y } that is pointed at, null for none; `divide` where the edge is put. */
  constructor(model) {
    super();
    this.model = model;
    this.mask = null;
    this.filled = null; // the result that the mask is of
    this.element = document.createElement("figure");
    this.element.innerHTML = `
      <figcaption><span><b></b> <small class="made"></small></span><small class="took"></small></figcaption>
      <div class="stage" tabindex="0" role="application" aria-roledescription="photograph under its mask">
        <img alt=""><canvas class="mask"></canvas><canvas class="differ" hidden></canvas>
        <i class="edge" hidden></i><i class="cross" hidden></i>
        <div class="wait" hidden><span></span><progress max="1"></progress></div>
      </div>
      <div class="pointed"><i class="swatch" hidden></i><span></span></div>`;
    const find = (name) => this.element.querySelector(name);
    this.parts = {
      name: find("b"), made: find(".made"), took: find(".took"), stage: find(".stage"), photo: find("img"), mask: find(".mask"),
      differ: find(".differ"), edge: find(".edge"), cross: find(".cross"), wait: find(".wait"), waitText: find(".wait span"),
      progress: find("progress"), swatch: find(".swatch"), pointed: find(".pointed span"),
    };
    this.parts.name.textContent = model.name;
    this.#listen();
  }

  /** Show this photograph; the mask of another one goes. */
  show(item) {
    this.mask = this.filled = this.at = null;
    this.point(null);
    this.parts.mask.hidden = this.parts.edge.hidden = true;
    this.differ(null);
    const { photo, stage, progress } = this.parts;
    photo.hidden = true; // until it is there: what is no picture has none
    photo.onload = () => {
      photo.hidden = false;
      stage.style.setProperty("--aspect", photo.naturalWidth / photo.naturalHeight);
    };
    photo.src = item.url;
    stage.setAttribute("aria-label", `${item.name} by ${this.model.name}: arrow keys move the pointer`);
    progress.setAttribute("aria-label", `progress of ${item.name} by ${this.model.name}`);
  }

  /** Tell how far the mask is, or why there will be none. */
  tell(result) {
    const { wait, waitText, progress, took, made } = this.parts;
    const done = result.state === "done";
    wait.hidden = done;
    this.element.classList.toggle("failed", Boolean(result.error));
    waitText.textContent = result.error ?? result.told;
    waitText.className = result.error ? "bad" : "";
    progress.hidden = Boolean(result.error);
    if (result.state === "sending") progress.value = result.sent;
    else progress.removeAttribute("value");
    took.textContent = done ? `${result.inside.toFixed(0)} ms in the service, ${result.whole.toFixed(0)} ms with the way` : "";
    made.textContent = done ? `${result.backend}, ${result.digest.slice(0, 12)}` : "";
    made.title = done ? `digest ${result.digest}` : "";
  }

  /** Show the mask: { width, height, labels }. */
  put(mask, hidden) {
    this.mask = mask;
    this.parts.stage.style.setProperty("--aspect", mask.width / mask.height);
    this.parts.mask.hidden = this.parts.edge.hidden = false;
    this.repaint(hidden);
  }

  /** Paint again, without the classes that are hidden. */
  repaint(hidden) {
    if (this.mask) paint(this.parts.mask, this.mask, colours(this.model.labels.classes, hidden));
  }

  /** Stripes where models differ; null for none. */
  differ(mask) {
    this.parts.differ.hidden = !mask;
    if (mask) paint(this.parts.differ, mask, DIFFERS, true);
  }

  /** Opacity of the colours, and where the mask ends and the photograph alone begins; both 0 to 1. */
  look(opacity, divider) {
    const { mask, differ, edge } = this.parts;
    mask.style.opacity = opacity;
    mask.style.clipPath = differ.style.clipPath = `inset(0 ${100 - divider * 100}% 0 0)`;
    edge.style.left = `${divider * 100}%`;
    edge.style.setProperty("--place", divider); // its handle stays inside
  }

  /** Mark a pixel and name its class; null for none. Returns the name. */
  point(place) {
    const { cross, swatch, pointed } = this.parts;
    const inside = place && this.mask;
    cross.hidden = swatch.hidden = !inside;
    if (!inside) return (pointed.textContent = "");
    const { width, height, labels } = this.mask;
    cross.style.left = `${((place.x + 0.5) / width) * 100}%`;
    cross.style.top = `${((place.y + 0.5) / height) * 100}%`;
    const found = this.model.labels.classes[labels[place.y * width + place.x]];
    swatch.style.setProperty("--of", found ? `rgb(${found.colour})` : "none");
    const name = found?.name ?? "no class";
    pointed.innerHTML = "<span></span> <small></small>";
    pointed.firstChild.textContent = name;
    pointed.lastChild.textContent = `${found ? `rgb ${found.colour.join(", ")}, ` : ""}x ${place.x}, y ${place.y}`;
    return name;
  }

  #listen() {
    const { stage, edge } = this.parts;
    const tell = (place, byKey = false) => this.dispatchEvent(new CustomEvent("point", { detail: { place, byKey } }));
    const under = ({ clientX, clientY }) => {
      const box = stage.getBoundingClientRect();
      const { width, height } = this.mask;
      const within = (share, size) => Math.min(size - 1, Math.max(0, Math.floor(share * size)));
      return { x: within((clientX - box.left) / box.width, width), y: within((clientY - box.top) / box.height, height) };
    };
    edge.addEventListener("pointerdown", (event) => { event.preventDefault(); edge.setPointerCapture(event.pointerId); });
    edge.addEventListener("pointermove", (event) => {
      if (!edge.hasPointerCapture(event.pointerId)) return;
      event.stopPropagation();
      const box = stage.getBoundingClientRect();
      this.dispatchEvent(new CustomEvent("divide", { detail: (event.clientX - box.left) / box.width }));
    });
    stage.addEventListener("pointermove", (event) => this.mask && tell((this.at = under(event))));
    stage.addEventListener("pointerdown", (event) => this.mask && tell((this.at = under(event))));
    stage.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && tell(null));
    stage.addEventListener("blur", () => tell(null));
    stage.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!way || !this.mask) return;
      event.preventDefault();
      const { width, height } = this.mask;
      const from = this.at ?? { x: width >> 1, y: height >> 1 };
      const step = Math.max(1, Math.round(width / (event.shiftKey ? 400 : 40)));
      const to = (value, by, size) => Math.min(size - 1, Math.max(0, value + by * step));
      tell((this.at = { x: to(from.x, way[0], width), y: to(from.y, way[1], height) }), true);
    });
  }
}
