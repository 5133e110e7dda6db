// Legend: the classes in the current masks with color, name and percentage. A click hides a class or shows it alone.
// The classes that no mask contains are folded away.

/** @import { LabelClass } from "./api.js" */

const percent = new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
const SMALLEST = 0.0005; // the smallest fraction that does not round to 0.0%

/**
 * Format a fraction as a percentage with one decimal.
 * @param {number} fraction
 * @returns {string}
 */
export function formatPercent(fraction) {
  return fraction > 0 && fraction < SMALLEST ? "<0.1%" : percent.format(fraction);
}

/** The classes of several models, each name once. */
function mergeClasses(lists) {
  const byName = new Map();
  for (const labelClass of lists.flat()) if (!byName.has(labelClass.name)) byName.set(labelClass.name, labelClass);
  return [...byName.values()];
}

/** A function from a class name to its fraction of a mask, null if the model does not predict this class. */
function fractionLookup({ classes, counts }) {
  const total = counts.reduce((sum, pixels) => sum + pixels, 0);
  const fractions = new Map(classes.map(({ name }, index) => [name, counts[index] / total]));
  return (name) => fractions.get(name) ?? null;
}

/**
 * Render the legend.
 * @param {HTMLElement} list
 * @param {HTMLDetailsElement} absent receives the classes that are in no mask
 * @param {{classes: LabelClass[], counts: Uint32Array | null}[]} models `counts` are the pixels by class, null without a mask
 * @param {Set<string>} hidden names of hidden classes; changed by clicks
 * @param {() => void} onChange called after `hidden` has changed
 */
export function renderLegend(list, absent, models, hidden, onChange) {
  const classes = mergeClasses(models.map((model) => model.classes));
  const lookups = models.filter(({ counts }) => counts).map(fractionLookup);
  const allRows = classes.map(({ name, color }) => ({ name, color, fractions: lookups.map((fractionOf) => fractionOf(name)) }));
  const rows = allRows
    .filter(({ fractions }) => fractions.some((fraction) => fraction > 0))
    .sort((a, b) => Math.max(...b.fractions) - Math.max(...a.fractions));
  const isOnlyVisible = (name) => rows.every((row) => (row.name === name) !== hidden.has(row.name));

  const toggle = (name) => {
    if (!hidden.delete(name)) hidden.add(name);
    onChange();
  };
  const toggleOnly = (name) => {
    const restore = isOnlyVisible(name);
    hidden.clear();
    // All other classes are hidden, also those that appear only in other images.
    if (!restore) classes.forEach((other) => other.name !== name && hidden.add(other.name));
    onChange();
  };

  const focusedAction = list.contains(document.activeElement) ? document.activeElement.dataset.action : undefined;
  list.replaceChildren(...rows.map(({ name, color, fractions }) => {
    const item = document.createElement("li");
    item.innerHTML = `<button type="button" class="class"><i class="swatch"></i><span class="name"></span></button>
      <button type="button" class="only">only</button>`;
    const [toggleButton, onlyButton] = item.children;
    toggleButton.dataset.action = `toggle ${name}`;
    toggleButton.setAttribute("aria-pressed", String(!hidden.has(name)));
    toggleButton.querySelector(".swatch").style.setProperty("--color", `rgb(${color})`);
    toggleButton.querySelector(".name").textContent = name;
    toggleButton.append(...fractions.map((fraction) => Object.assign(document.createElement("span"), {
      className: "fraction", textContent: fraction === null ? "–" : formatPercent(fraction),
    })));
    toggleButton.onclick = () => toggle(name);
    onlyButton.dataset.action = `only ${name}`;
    onlyButton.setAttribute("aria-pressed", String(isOnlyVisible(name)));
    onlyButton.setAttribute("aria-label", `only ${name}`);
    onlyButton.onclick = () => toggleOnly(name);
    return item;
  }));
  // The buttons are new elements, so the focus has to move to the one with the same action.
  if (focusedAction) [...list.querySelectorAll("button")].find(({ dataset }) => dataset.action === focusedAction)?.focus();
  renderAbsent(absent, lookups.length ? allRows.filter((row) => !rows.includes(row)) : []);
}

function renderAbsent(absent, rows) {
  const [summary, list] = absent.children;
  absent.hidden = !rows.length;
  summary.textContent = `${rows.length} ${rows.length === 1 ? "class" : "classes"} not in the image`;
  list.replaceChildren(...rows.map(({ name, color }) => {
    const item = document.createElement("li"), swatch = document.createElement("i");
    swatch.className = "swatch";
    swatch.style.setProperty("--color", `rgb(${color})`);
    item.append(swatch, name);
    return item;
  }));
}
