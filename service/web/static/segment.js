// The photographs' page: the chosen photograph under the masks of the chosen models, side by side.

import { count, differences, readMask } from "./labels.js";
import { fillLegend, percent } from "./legend.js";
import { ModelChoice } from "./models.js";
import { Photographs } from "./photographs.js";
import { Strip } from "./strip.js";
import { copy, curlLine, save } from "./takeaway.js";
import { View } from "./view.js";

const $ = (id) => document.getElementById(id);

export class SegmentPage {
  photographs = new Photographs();
  models = new ModelChoice($("models"), () => this.#again());
  #strip = new Strip($("strip"), this.photographs);
  #hidden = new Set(); // names of classes
  #views = [];
  #shown = null; // the photograph that they show

  /** `refused` is called with what the whole page should know of; `renew` lists the models anew. */
  constructor(refused, renew) {
    this.photographs.renew = renew;
    this.photographs.addEventListener("change", ({ detail }) => this.#changed(detail));
    this.photographs.addEventListener("refused", ({ detail: error }) => {
      if (error.needsKey || error.code === "unreachable" || error.status === 503) refused(error);
      else this.#say(error.message); // it is shown with its photograph
    });
    for (const id of ["native", "flip"]) $(id).onchange = () => this.#again();
    for (const id of ["opacity", "divider"]) $(id).oninput = () => this.#look();
    $("differ").onchange = () => this.#differ();
    $("show-all").onclick = () => { this.#hidden.clear(); this.#repaint(); };
    for (const button of document.querySelectorAll("[data-output]")) {
      button.onclick = () => this.#save(button.dataset.output).catch(refused);
    }
    $("copy").onclick = () => copy($("curl"), $("copy"));
  }

  /** Take photographs. */
  add(files) {
    document.body.classList.add("some");
    this.photographs.add(files);
  }

  /** Other models, or another way: views anew. */
  #again() {
    const { chosen } = this.models;
    document.body.classList.toggle("several", chosen.length > 1);
    this.#views = chosen.map((model) => this.#view(model));
    $("views").replaceChildren(...this.#views.map(({ element }) => element));
    this.#shown = null;
    this.photographs.want(chosen, { native: $("native").checked, flip: $("flip").checked });
    this.#look();
  }

  #view(model) {
    const view = new View(model);
    view.addEventListener("divide", ({ detail }) => { $("divider").value = detail * 100; this.#look(); });
    view.addEventListener("point", ({ detail: { place, byKey } }) => {
      const names = this.#views.map((each) => each.point(place));
      if (!byKey) return;
      const same = new Set(names).size === 1;
      this.#say(same ? names[0] : names.map((name, n) => `${this.#views[n].model.name}: ${name}`).join(", "));
    });
    return view;
  }

  #changed(item) {
    $("result").hidden = !this.photographs.current;
    if (!item) return;
    this.#strip.update(item);
    if (item === this.photographs.current) this.#show(item);
  }

  /** The photograph, with as many masks as there are. */
  async #show(item) {
    if (this.#shown !== item) {
      this.#shown = item;
      this.#views.forEach((view) => view.show(item));
      this.#legend();
      this.#differ();
      if (this.#views.length) $("curl").textContent = curlLine(item.name, this.#views[0].model, this.photographs.how);
      $("whose").textContent = this.#views.length > 1 ? `Of ${this.#views[0].model.name}:` : "";
    }
    await Promise.all(this.#views.map((view) => this.#fill(view, item)));
    for (const button of document.querySelectorAll("[data-output]")) button.disabled = !this.#views[0]?.mask;
  }

  async #fill(view, item) {
    const result = this.photographs.result(item, view.model);
    view.tell(result);
    if (result.state !== "done" || view.filled === result) return;
    view.filled = result;
    performance.mark("mask came"); // from here on it is this page's time: make bench asks for it
    let mask;
    try {
      mask = await readMask(result.bytes);
    } catch (error) { // a browser that can't inflate (of before 2023)
      view.tell({ state: "failed", error: `This browser can't read the mask (${error.message}); a newer one can.` });
      return;
    }
    if (view.filled !== result) return; // another photograph has been chosen meanwhile
    view.put(mask, this.#hidden);
    view.counts = count(mask.labels);
    this.#legend();
    this.#differ();
    performance.measure("show", "mask came");
    if (this.#views.every((each) => each.mask)) this.#say(`${item.name}: ${this.#words()}`);
  }

  #say(text) {
    $("spoken").textContent = text;
  }

  /** The largest classes, for those who can't see the mask. */
  #words() {
    const rows = [...$("legend").querySelectorAll(".class")].slice(0, 5);
    return rows.map((row) => [...row.children].slice(1).map((part) => part.innerText).join(" ")).join(", ");
  }

  /** Whether the models know the same classes, so that their masks can be compared. */
  get #alike() {
    return new Set(this.#views.map(({ model }) => JSON.stringify(model.labels.classes))).size === 1;
  }

  #legend() {
    const ready = this.#views.filter(({ mask }) => mask);
    const known = this.#views.map(({ model, mask, counts }) => ({ classes: model.labels.classes, counts: mask && counts }));
    $("shares-of").hidden = ready.length < 2;
    $("shares-of").textContent = `Shares by ${ready.map(({ model }) => model.name).join(", ")}`;
    fillLegend($("legend"), known, this.#hidden, () => this.#repaint());
  }

  #repaint() {
    this.#views.forEach((view) => view.repaint(this.#hidden));
    this.#legend();
  }

  #look() {
    this.#views.forEach((view) => view.look($("opacity").value / 100, $("divider").value / 100));
  }

  #differ() {
    const comparable = this.#views.length > 1 && this.#alike && this.#views.every(({ mask }) => mask);
    $("differ-label").hidden = !comparable;
    const mask = comparable ? differences(this.#views.map((view) => view.mask)) : null;
    if (mask) $("differ-share").textContent = `(${percent.format(mask.share)} of the pixels)`;
    this.#views.forEach((view) => view.differ($("differ").checked ? mask : null));
  }

  #save(output) {
    const { model, filled } = this.#views[0];
    return save(output, this.#shown, model, this.photographs.how, filled.bytes);
  }
}
