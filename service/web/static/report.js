// Evaluation report: scores with confidence intervals, IoU by class, and the confusion matrix.

const HEADLINES = {
  miou_present: "mIoU (classes in the labels)",
  miou: "mIoU (classes in labels or predictions)",
  pixel_accuracy: "Pixel accuracy",
};
const METRICS = ["accuracy", "sensitivity", "specificity", "dice", "iou"]; // keys of the report, in the order of the columns
const DISPLAY_NAMES = { dice: "Dice", iou: "IoU" };
const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
const HINT = "Point at a cell or use the arrow keys to read its exact value.";
const SHOWN_PERCENT = 0.5; // cells with less show no number, which keeps the pattern of the larger ones visible

const formatScore = (value) => (value == null ? "–" : value.toFixed(3));
const columnHeader = (text) => createElement("th", { scope: "col", textContent: text });
const rowHeader = (text) => createElement("th", { scope: "row", textContent: text });
const numberHeader = (text) => Object.assign(columnHeader(text), { className: "number" });
const numberCell = (value) => createElement("td", { className: "number", textContent: formatScore(value) });

function createElement(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** A table with a header row. The corner above the row headers is added to the header cells. */
function createTable(className, headerCells, rows) {
  const header = createElement("tr", {}, createElement("td"), ...headerCells);
  return createElement("table", { className }, createElement("thead", {}, header), createElement("tbody", {}, ...rows));
}

/**
 * Render a report.
 * @param {Record<string, any>} report of an evaluation that is done
 * @param {string[]} colors CSS colors of the classes
 * @returns {HTMLElement}
 */
export function renderReport({ checkpoint, data, scores, classes, confusion, intervals, speed }, colors) {
  const { name, architecture, backend, digest } = checkpoint;
  const summary = `${data.images} images, ${architecture}, ${backend}, digest ${digest.slice(0, 12)}; `
    + `${speed.images_per_s.toFixed(1)} images/s, median ${speed.median_ms.toFixed(0)} ms per image`;
  const matrixHelp = "Rows are labels, columns are predictions; percentage of the row's pixels.";
  return createElement("article", { className: "report" },
    createElement("h2", { textContent: `${name} on ${data.name}, split ${data.split}` }),
    createElement("p", { className: "muted", textContent: summary }),
    createElement("div", { className: "report-parts" },
      createElement("section", {},
        headlineTable(scores, intervals),
        createElement("h3", { textContent: "Macro and micro averages" }), averageTable(scores),
        createElement("h3", { textContent: "IoU by class" }), iouBars(classes, colors)),
      createElement("section", {},
        createElement("h3", { textContent: "Confusion matrix" }),
        createElement("p", { className: "muted", textContent: matrixHelp }),
        ...confusionMatrix(classes, confusion))));
}

function headlineTable(scores, intervals) {
  const rows = Object.entries(HEADLINES).map(([key, name]) => {
    const interval = intervals[key]?.map(formatScore).join(" to ") ?? "";
    return createElement("tr", {}, rowHeader(name), numberCell(scores[key]),
      createElement("td", { className: "interval", textContent: interval }));
  });
  return createTable("headlines", [numberHeader("Score"), columnHeader("95% interval")], rows);
}

function averageTable(scores) {
  const rows = ["macro", "micro"].map((average) =>
    createElement("tr", {}, rowHeader(average), ...METRICS.map((metric) => numberCell(scores[average][metric]))));
  const table = createTable("averages", METRICS.map((metric) => numberHeader(DISPLAY_NAMES[metric] ?? metric)), rows);
  const scroller = createElement("div", { className: "scroll-x", tabIndex: 0, ariaLabel: "Macro and micro averages" }, table);
  scroller.setAttribute("role", "region");
  return scroller;
}

function iouBars(classes, colors) {
  const list = createElement("dl", { className: "bars" });
  classes.forEach(({ name, iou, label_pixels }, index) => {
    const bar = createElement("i");
    bar.style.setProperty("--color", colors[index] ?? "var(--accent)");
    bar.style.setProperty("--width", `${(iou ?? 0) * 100}%`);
    list.append(
      createElement("dt", { textContent: name }), createElement("dd", { className: "bar", ariaHidden: "true" }, bar),
      createElement("dd", { textContent: formatScore(iou), title: label_pixels ? "" : "not in the labels" }));
  });
  return list;
}

/** The matrix and the line that shows the exact value of the cell that the user points at. */
function confusionMatrix(classes, confusion) {
  const rows = confusion.map((counts, i) => {
    const total = counts.reduce((sum, pixels) => sum + pixels, 0);
    const cells = classes.map(({ name }, j) => confusionCell(classes[i].name, name, counts[j], total, i === j));
    return createElement("tr", {}, rowHeader(classes[i].name), ...cells);
  });
  const table = createTable("confusion", classes.map(({ name }) => columnHeader(name)), rows);
  table.ariaLabel = "Confusion matrix";
  table.setAttribute("role", "grid"); // one stop of the Tab key; arrow keys move between the cells
  const readout = createElement("p", { className: "readout", textContent: HINT });
  bindCells(table.tBodies[0], readout);
  return [readout, createElement("div", { className: "scroll-x" }, table)];
}

function confusionCell(label, prediction, pixels, total, correct) {
  const percentage = total ? (pixels / total) * 100 : 0;
  const text = percentage >= SHOWN_PERCENT ? Math.round(percentage) : "";
  const cell = createElement("td", { textContent: text, tabIndex: -1 });
  const value = `${percentage.toFixed(2)}%, ${pixels.toLocaleString("en")} of ${total.toLocaleString("en")} pixels`;
  cell.ariaLabel = total ? `${label} predicted as ${prediction}: ${value}` : `${label}: not in the labels`;
  cell.style.setProperty("--fraction", `${percentage}%`);
  cell.classList.toggle("correct", correct);
  return cell;
}

/** Show a cell's value when it is pointed at or focused, and let the arrow keys move between the cells. */
function bindCells(body, readout) {
  const cellAt = (row, column) => body.rows[row]?.querySelectorAll("td")[column];
  let current = cellAt(0, 0); // the cell that Tab reaches
  if (!current) return;
  current.tabIndex = 0;
  const show = (event) => { if (event.target.matches("td")) readout.textContent = event.target.ariaLabel; };
  body.addEventListener("pointerover", show);
  body.addEventListener("focusin", (event) => {
    show(event);
    current.tabIndex = -1;
    current = event.target;
    current.tabIndex = 0;
  });
  body.addEventListener("keydown", (event) => {
    const direction = ARROWS[event.key];
    if (!direction || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const row = current.parentElement.sectionRowIndex, column = current.cellIndex - 1; // the row's header is cell 0
    const next = cellAt(row + direction[0], column + direction[1]);
    event.preventDefault(); // at the border too: otherwise the page would scroll
    next?.focus();
  });
}
