// A report drawn: scores with their intervals, a bar for each class, the confusion matrix.

const HEADLINES = {
  macro_iou_labelled: "macro IoU, classes that the labels hold",
  macro_iou: "macro IoU",
  pixel_accuracy: "pixel accuracy",
};
const MEASURES = ["accuracy", "sensitivity", "specificity", "dice", "iou"]; // as the report names them; shown as people do
const SHOWN = { dice: "Dice", iou: "IoU" };
const number = (value) => (value == null ? "–" : value.toFixed(3));

function element(name, options = {}, ...children) {
  const made = Object.assign(document.createElement(name), options);
  made.append(...children);
  return made;
}

/** The report as an article; `colours` are those of the classes. */
export function report(told, colours) {
  const { checkpoint, data, scores, classes, confusion, intervals, speed } = told;
  return element("article", { className: "report" },
    element("h2", { textContent: `${checkpoint.name} on ${data.split} of ${data.name}` }),
    element("p", { className: "faint", textContent:
      `${data.images} photographs, ${checkpoint.architecture}, ${checkpoint.backend}, digest ${checkpoint.digest.slice(0, 12)}; `
      + `${speed.images_per_s.toFixed(1)} images/s, ${speed.median_ms.toFixed(0)} ms each` }),
    headlines(scores, intervals),
    element("h3", { textContent: "Macro and micro" }),
    both(scores),
    element("h3", { textContent: "IoU by class" }),
    bars(classes, colours),
    element("h3", { textContent: "Confusion: labels in rows, predictions in columns, % of the row" }),
    matrix(classes, confusion));
}

function headlines(scores, intervals) {
  const rows = Object.entries(HEADLINES).map(([key, name]) => {
    const between = intervals[key];
    const range = between ? between.map(number).join(" to ") : "";
    return element("tr", {}, element("th", { scope: "row", textContent: name }),
      element("td", { className: "number", textContent: number(scores[key]) }), element("td", { textContent: range }));
  });
  const head = element("thead", {}, element("tr", {}, element("td"), header("score"), header("95 % interval")));
  return element("table", { className: "headlines" }, head, element("tbody", {}, ...rows));
}

function both(scores) {
  const head = element("thead", {}, element("tr", {}, element("td"), ...MEASURES.map((name) => Object.assign(header(SHOWN[name] ?? name), { className: "number" }))));
  const rows = ["macro", "micro"].map((kind) => element("tr", {}, element("th", { scope: "row", textContent: kind }),
    ...MEASURES.map((name) => element("td", { className: "number", textContent: number(scores[kind][name]) }))));
  return wide("Macro and micro scores", element("table", {}, head, element("tbody", {}, ...rows)));
}

function bars(classes, colours) {
  const list = element("dl", { className: "bars" });
  classes.forEach(({ name, iou, label_pixels }, k) => {
    const inner = element("i");
    inner.style.setProperty("--of", colours[k] ?? "var(--accent)");
    inner.style.setProperty("--to", `${(iou ?? 0) * 100}%`);
    list.append(element("dt", { textContent: name }), element("dd", { className: "bar", ariaHidden: "true" }, inner),
      element("dd", { textContent: number(iou), title: label_pixels ? "" : "not in the labels" }));
  });
  return list;
}

function matrix(classes, confusion) {
  const head = element("thead", {}, element("tr", {}, element("td"), ...classes.map(({ name }) => header(name))));
  const rows = confusion.map((row, i) => {
    const all = row.reduce((sum, pixels) => sum + pixels, 0);
    const cells = classes.map(({ name }, j) => {
      const share = all ? (row[j] / all) * 100 : 0;
      const cell = element("td", { textContent: share >= 0.5 ? Math.round(share) : "", title: `${classes[i].name} as ${name}: ${share.toFixed(2)} %` });
      cell.style.setProperty("--of", `${share}%`);
      cell.classList.toggle("right", i === j);
      return cell;
    });
    return element("tr", {}, element("th", { scope: "row", textContent: classes[i].name }), ...cells);
  });
  return wide("Confusion matrix", element("table", { className: "confusion" }, head, element("tbody", {}, ...rows)));
}

const header = (name) => element("th", { scope: "col", textContent: name });

/** What may be wider than the page and is moved sideways then, by keys too. */
function wide(name, inner) {
  const box = element("div", { className: "wide", tabIndex: 0, ariaLabel: name }, inner);
  box.setAttribute("role", "region");
  return box;
}
