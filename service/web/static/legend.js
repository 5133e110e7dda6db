// The classes of the masks that are shown: colour, name and share; a click hides one or shows it alone.

const percent = new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });

/** The classes of several lists by name, each where it comes first. */
function union(lists) {
  const found = new Map();
  for (const each of lists.flat()) if (!found.has(each.name)) found.set(each.name, each);
  return [...found.values()];
}

/** A function from a class's name to its share of a mask, null where the model does not know it. */
function sharesOf({ classes, counts }) {
  const all = counts.reduce((sum, pixels) => sum + pixels, 0);
  const known = new Map(classes.map(({ name }, k) => [name, counts[k] / all]));
  return (name) => known.get(name) ?? null;
}

/** Fill the list. Each of `models` is { classes, counts }, the pixels by class, null where there is no mask yet; `changed` is called when `hidden`, a set of names, has. */
export function fillLegend(list, models, hidden, changed) {
  const classes = union(models.map((model) => model.classes));
  const each = models.filter(({ counts }) => counts).map(sharesOf);
  const rows = classes.map((found) => ({ ...found, shares: each.map((share) => share(found.name)) })).filter(({ shares }) => shares.some((one) => one > 0));
  rows.sort((a, b) => Math.max(...b.shares) - Math.max(...a.shares));
  const alone = (name) => rows.every((row) => (row.name === name) !== hidden.has(row.name));
  const focused = document.activeElement?.dataset?.action;
  list.replaceChildren(...rows.map(({ name, colour, shares }) => {
    const item = document.createElement("li");
    item.innerHTML = `<button type="button" class="class"><i class="swatch"></i><span></span><span class="shares"></span></button>
      <button type="button" class="only">only</button>`;
    const [toggle, only] = item.children;
    toggle.dataset.action = `class ${name}`;
    only.dataset.action = `only ${name}`;
    toggle.setAttribute("aria-pressed", !hidden.has(name));
    only.setAttribute("aria-pressed", alone(name));
    only.setAttribute("aria-label", `only ${name}`);
    toggle.children[0].style.setProperty("--of", `rgb(${colour})`);
    toggle.children[1].textContent = name;
    toggle.children[2].append(...shares.map((one) => Object.assign(document.createElement("span"), { textContent: one === null ? "–" : percent.format(one) })));
    toggle.onclick = () => { hidden.has(name) ? hidden.delete(name) : hidden.add(name); changed(); };
    only.onclick = () => {
      const was = alone(name);
      hidden.clear();
      if (!was) classes.forEach((found) => found.name !== name && hidden.add(found.name)); // those of other photographs, too
      changed();
    };
    return item;
  }));
  if (focused) [...list.querySelectorAll("button")].find((button) => button.dataset.action === focused)?.focus(); // the list is made anew, the place in it is kept
}

export { percent };
