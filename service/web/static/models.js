// The models to choose from: what each is, what answers for it, and which of them are chosen, one to three.

const MOST = 3; // side by side

/** Whether a model answers: one that is loaded does, even where its file has been damaged since. */
export const usable = ({ labels, loaded, error }) => Boolean(labels && (loaded || !error));

export class ModelChoice {
  models = []; // of GET /models
  chosen = [];

  /** `changed` is called when others are chosen. */
  constructor(fieldset, changed) {
    this.fieldset = fieldset;
    this.changed = changed;
  }

  /** List what the service has; what was chosen before stays chosen. */
  list({ models, default: first }) {
    this.models = models;
    const names = this.chosen.length ? this.chosen.map(({ name }) => name) : [first];
    const legend = this.fieldset.querySelector("legend");
    const focused = this.fieldset.contains(document.activeElement) ? document.activeElement.value : null;
    this.fieldset.replaceChildren(legend, ...models.map((model) => this.#option(model, names.includes(model.name))));
    if (focused !== null) [...this.fieldset.querySelectorAll("input")].find(({ value }) => value === focused)?.focus(); // the boxes are new ones
    const [before, now] = [this.chosen, this.#checked()].map((each) => JSON.stringify(each.map(({ name, labels, digest }) => [name, labels, digest])));
    this.chosen = this.#checked();
    if (before !== now) this.changed(this.chosen); // else the views stay as they are
  }

  #option(model, checked) {
    const ready = usable(model);
    const label = document.createElement("label");
    label.className = `model${model.error && !ready ? " unusable" : ""}`;
    label.innerHTML = `<input type="checkbox"><span><b></b><small></small><small></small><small class="bad"></small></span>`;
    const [box, text] = label.children;
    const [name, what, answers, wrong] = text.children;
    Object.assign(box, { value: model.name, checked: checked && ready, disabled: !ready });
    box.onchange = () => this.#choose(box);
    name.textContent = model.name;
    if (ready) {
      const score = model.scores?.macro_iou_labelled;
      const told = [model.architecture, model.width && `width ${model.width}`, model.data, score && `IoU ${score.toFixed(3)}`];
      what.textContent = told.filter(Boolean).join(", ");
      answers.textContent = [model.backend, model.digest?.slice(0, 12)].filter(Boolean).join(", ");
      answers.title = model.digest ? `digest ${model.digest}` : "";
      wrong.textContent = model.error ? `the file can't be used: ${model.error}; the one loaded before goes on` : "";
    } else if (model.error) wrong.textContent = `can't be used: ${model.error}`;
    else what.textContent = "being read …";
    return label;
  }

  /** The boxes say which: at least one, at most three. */
  #choose(last = null) {
    const boxes = [...this.fieldset.querySelectorAll("input")];
    const checked = boxes.filter((box) => box.checked);
    if (!checked.length && last) last.checked = true;
    if (checked.length > MOST) checked.find((box) => box !== last).checked = false;
    this.chosen = this.#checked();
    this.changed(this.chosen);
  }

  #checked() {
    const boxes = [...this.fieldset.querySelectorAll("input:checked")];
    return boxes.map((box) => this.models.find((model) => model.name === box.value));
  }
}
