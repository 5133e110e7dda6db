// Model picker: a checkbox for each model with its details. One to three models are selected at any time.

/** @import { Model } from "./api.js" */

const MAX_SELECTED = 3; // more would not fit side by side

/**
 * Return whether a model can answer requests. A loaded model can, even if its file has been damaged since.
 * @param {Model} model
 * @returns {boolean}
 */
export const isUsable = ({ labels, loaded, error }) => Boolean(labels && (loaded || !error));

/**
 * Return whether the service is still reading the file of a model.
 * @param {Model} model
 * @returns {boolean}
 */
export const isBeingRead = ({ labels, error }) => !labels && !error;

export class ModelPicker {
  /** @type {Model[]} as the service listed them last */
  models = [];
  /** @type {Model[]} */
  selected = [];

  /**
   * @param {HTMLFieldSetElement} fieldset with a legend and an element of the class "message"
   * @param {() => void} onChange called after another selection, or a change of a selected model
   */
  constructor(fieldset, onChange) {
    this.fieldset = fieldset;
    this.legend = fieldset.querySelector("legend");
    this.message = fieldset.querySelector(".message");
    this.onChange = onChange;
  }

  /**
   * Show the service's models and keep the selection, unless others are to be selected.
   * @param {{models: Model[], default: string}} list of `GET /models`
   * @param {Model[]} restored models of the list to select; if there are none, the selection stays
   */
  update({ models, default: defaultName }, restored = []) {
    const kept = restored.length ? restored : this.selected;
    const names = kept.length ? kept.map(({ name }) => name) : [defaultName];
    const focusedName = this.fieldset.contains(document.activeElement) ? document.activeElement.value : null;
    this.models = models;
    const options = models.map((model) => this.#createOption(model, names.includes(model.name)));
    this.fieldset.replaceChildren(this.legend, ...options, this.message);
    // The checkboxes are new elements, so the focus has to move to the one of the same model.
    if (focusedName !== null) this.#boxes().find(({ value }) => value === focusedName)?.focus();
    const identity = (selection) => JSON.stringify(selection.map(({ name, labels, digest }) => [name, labels, digest]));
    const before = identity(this.selected);
    this.#readSelection();
    if (identity(this.selected) !== before) this.onChange(); // otherwise the masks on the page are still valid
  }

  #boxes() {
    return [...this.fieldset.querySelectorAll("input")];
  }

  #createOption(model, checked) {
    const usable = isUsable(model);
    const label = document.createElement("label");
    label.className = `model${model.error && !usable ? " unusable" : ""}`;
    label.innerHTML = `<input type="checkbox"><span><b></b><small></small><small></small><small class="error"></small></span>`;
    const [box, text] = label.children;
    const [name, details, backend, problem] = text.children;
    Object.assign(box, { value: model.name, checked: checked && usable, disabled: !usable });
    box.onchange = () => this.#select(box);
    name.textContent = model.name;
    if (usable) {
      const score = model.scores?.miou_present;
      const parts = [
        model.architecture, model.width && `width ${model.width}`, model.data && `trained on ${model.data}`,
        // Scores on different data must not be compared: "cityscapes val, 500 images".
        score && `mIoU ${score.toFixed(3)}${model.scored_on ? ` on ${model.scored_on.split(",")[0]}` : ""}`,
      ];
      details.textContent = parts.filter(Boolean).join(", ");
      backend.textContent = model.backend ?? "";
      backend.title = model.digest ? `digest ${model.digest}` : "";
      const kept = "The model loaded before stays in use.";
      problem.textContent = model.error ? `The new file cannot be loaded (${model.error}). ${kept}` : "";
    } else if (model.error) problem.textContent = `Cannot be loaded: ${model.error}`;
    else details.textContent = "loading…";
    return label;
  }

  #select(box) {
    if (this.#boxes().some(({ checked }) => checked)) {
      this.#readSelection();
      this.onChange();
    } else {
      box.checked = true;
      this.message.textContent = "At least one model must stay selected.";
    }
  }

  /** Read the checkboxes. At the maximum, disable the others instead of dropping one of the selected models. */
  #readSelection() {
    const names = new Set(this.#boxes().filter(({ checked }) => checked).map(({ value }) => value));
    this.selected = this.models.filter(({ name }) => names.has(name));
    const full = names.size >= MAX_SELECTED;
    const usable = new Set(this.models.filter(isUsable).map(({ name }) => name));
    for (const box of this.#boxes()) box.disabled = !usable.has(box.value) || (full && !box.checked);
    const othersDisabled = full && usable.size > MAX_SELECTED;
    this.message.textContent = othersDisabled ? `${MAX_SELECTED} models are selected. Deselect one to select another.` : "";
  }
}
