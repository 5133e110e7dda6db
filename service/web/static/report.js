// Evaluation report: scores with confidence intervals, IoU by class, the confusion matrix, and examples.

import { renderExamples } from "./report-examples.js";

/** @import { Evaluation } from "./evaluation-table.js" */

/**
 * A score of one evaluation minus that of another, with its paired 95% interval; null if undefined.
 * @typedef {{value: number | null, interval: [number, number] | null}} Difference
 *
 * The response of `GET /evaluate/{id}/difference`.
 * @typedef {{id: string, base: string, scores: Record<string, Difference>, classes: {name: string, iou: Difference}[]}} ReportDifference
 *
 * What to show beside the scores of the second report: the differences to the first one, or why there are none.
 * @typedef {{baseName: string, difference?: ReportDifference, problem?: string}} Comparison
 */

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
const formatSigned = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3);
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
 * @param {Evaluation} evaluation that is done
 * @param {string[]} colors CSS colors of the classes
 * @returns {HTMLElement}
 */
export function renderReport(evaluation, colors) {
  const { checkpoint, data, classes, confusion, speed } = evaluation.report;
  const { name, architecture, backend, digest } = checkpoint;
  const summary = `${data.images} images, ${architecture}, ${backend}; `
    + `${speed.images_per_s.toFixed(1)} images/s, median ${speed.median_ms.toFixed(0)} ms per image`;
  const matrixHelp = "Rows are labels, columns are predictions; percentage of the row's pixels.";
  const scores = createElement("section", { className: "scores" });
  renderScores(scores, evaluation.report, colors, null);
  return createElement("article", { className: "report", id: `report-${evaluation.id}` },
    createElement("h2", { textContent: `${name} on ${data.name}, split ${data.split}` }),
    createElement("p", { className: "muted", textContent: summary }),
    createElement("details", { className: "muted" },
      createElement("summary", { textContent: "Checkpoint" }),
      "digest ", createElement("code", { textContent: digest })),
    createElement("div", { className: "report-parts" },
      scores,
      createElement("section", {},
        createElement("h3", { textContent: "Confusion matrix" }),
        createElement("p", { className: "muted", textContent: matrixHelp }),
        ...confusionMatrix(classes, confusion))),
    renderExamples(evaluation));
}

/**
 * Render the scores of a report into a section.
 * @param {HTMLElement} section
 * @param {Record<string, any>} report
 * @param {string[]} colors CSS colors of the classes
 * @param {Comparison | null} comparison with another report
 */
export function renderScores(section, { scores, classes, intervals }, colors, comparison) {
  const note = comparison?.problem ?? (comparison && `The last column is the difference to the first report (${comparison.baseName}),`
    + " with its 95% interval. If the interval contains zero, the data does not show which one is better.");
  section.replaceChildren(
    ...(note ? [createElement("p", { className: "muted", textContent: note })] : []),
    headlineTable(scores, intervals, comparison?.difference?.scores),
    createElement("h3", { textContent: "Macro and micro averages" }), averageTable(scores),
    createElement("h3", { textContent: "IoU by class" }), iouBars(classes, colors, comparison?.difference?.classes),
    ...absentClasses(classes));
}

function headlineTable(scores, intervals, differences) {
  const rows = Object.entries(HEADLINES).map(([key, name]) => {
    const interval = intervals[key]?.map(formatScore).join(" to ") ?? "";
    const row = createElement("tr", {}, rowHeader(name), numberCell(scores[key]),
      createElement("td", { className: "interval", textContent: interval }));
    if (differences) row.append(fillDifference(createElement("td"), differences[key]));
    return row;
  });
  const headers = [numberHeader("Score"), columnHeader("95% interval")];
  if (differences) headers.push(columnHeader("Difference"));
  return createTable("headlines", headers, rows);
}

/** Write a difference into an element. It is muted if its interval contains zero or is unknown. */
function fillDifference(element, { value, interval }) {
  element.className = "difference";
  if (value == null) {
    element.textContent = "–";
    return element;
  }
  const decided = interval !== null && (interval[0] > 0 || interval[1] < 0);
  const range = interval ? `(${interval.map(formatSigned).join(" to ")})` : "(too few images)";
  element.append(
    createElement(decided ? "b" : "span", { textContent: formatSigned(value) }), " ",
    createElement("small", { textContent: range }));
  return element;
}

function averageTable(scores) {
  const rows = ["macro", "micro"].map((average) =>
    createElement("tr", {}, rowHeader(average), ...METRICS.map((metric) => numberCell(scores[average][metric]))));
  const table = createTable("averages", METRICS.map((metric) => numberHeader(DISPLAY_NAMES[metric] ?? metric)), rows);
  const scroller = createElement("div", { className: "scroll-x", tabIndex: 0, ariaLabel: "Macro and micro averages" }, table);
  scroller.setAttribute("role", "region");
  return scroller;
}

function iouBars(classes, colors, differences) {
  const list = createElement("dl", { className: `bars${differences ? " with-difference" : ""}` });
  classes.forEach(({ name, iou, label_pixels }, index) => {
    if (iou === null) return;
    const bar = createElement("i");
    bar.style.setProperty("--color", colors[index] ?? "var(--accent)");
    bar.style.setProperty("--width", `${iou * 100}%`);
    list.append(
      createElement("dt", { textContent: name }), createElement("dd", { className: "bar", ariaHidden: "true" }, bar),
      createElement("dd", { textContent: formatScore(iou), title: label_pixels ? "" : "not in the labels" }));
    if (differences) list.append(fillDifference(createElement("dd"), differences[index].iou));
  });
  return list;
}

/** The names of the classes without a pixel in labels and predictions, which have no scores. */
function absentClasses(classes) {
  const names = classes.filter(({ iou }) => iou === null).map(({ name }) => name);
  if (!names.length) return [];
  const title = `${names.length} ${names.length === 1 ? "class" : "classes"} without a pixel`;
  return [createElement("details", { className: "muted" },
    createElement("summary", { textContent: title }), names.join(", "))];
}

/** The matrix and the line that shows the exact value of the cell that the user points at. */
function confusionMatrix(classes, confusion) {
  const present = [...classes.entries()].filter(([, { iou }]) => iou !== null); // all cells of the others are zero
  const rows = present.map(([i, { name: label }]) => {
    const total = confusion[i].reduce((sum, pixels) => sum + pixels, 0);
    const cells = present.map(([j, { name }]) => confusionCell(label, name, confusion[i][j], total, i === j));
    return createElement("tr", {}, rowHeader(label), ...cells);
  });
  const table = createTable("confusion", present.map(([, { name }]) => columnHeader(name)), rows);
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
