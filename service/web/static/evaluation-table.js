// Table of evaluations: model, split, start, progress, and a button to cancel an evaluation or to show its report.

/**
 * An evaluation as `GET /evaluate` lists it; `report` is there only in `GET /evaluate/{id}`.
 * @typedef {object} Evaluation
 * @property {string} id
 * @property {string} model
 * @property {string} digest of the model
 * @property {string} split
 * @property {"queued" | "running" | "done" | "failed" | "cancelled" | "interrupted"} state
 * @property {string} created ISO 8601
 * @property {{done: number, total: number}} progress in images
 * @property {string | null} error
 * @property {object} [report]
 */

const TABLE = `<div class="scroll-x" tabindex="0" role="region" aria-label="Evaluations"><table class="evaluations">
  <thead><tr><th scope="col">Model</th><th scope="col">Split</th><th scope="col">Created</th><th scope="col">Status</th>
  <th scope="col"><span class="visually-hidden">Action</span></th></tr></thead><tbody></tbody></table></div>`;
const dateFormat = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short" });

/**
 * Return whether an evaluation has not ended yet.
 * @param {Evaluation} evaluation
 * @returns {boolean}
 */
export const isActive = ({ state }) => state === "queued" || state === "running";

/**
 * Render the table.
 * @param {HTMLElement} container
 * @param {Evaluation[]} evaluations
 * @param {string[]} shownIds ids of the evaluations whose report is shown
 * @param {(evaluation: Evaluation) => void} onPress called with the evaluation whose button was pressed
 */
export function renderEvaluationTable(container, evaluations, shownIds, onPress) {
  if (!evaluations.length) {
    container.innerHTML = `<p class="muted">No evaluations yet. Choose a model and a split, then start one.</p>`;
    return;
  }
  if (!container.querySelector("table")) container.innerHTML = TABLE;
  const body = container.querySelector("tbody");
  // Existing rows are kept: they hold the focus, and screen readers read only what changes in them.
  const rows = evaluations.map((evaluation) => document.getElementById(`evaluation-${evaluation.id}`) ?? createRow(evaluation));
  rows.forEach((row, n) => row !== body.children[n] && body.insertBefore(row, body.children[n] ?? null));
  while (body.children.length > rows.length) body.lastChild.remove(); // the service has deleted the oldest ones
  rows.forEach((row, n) => updateRow(row, evaluations[n], shownIds.includes(evaluations[n].id), onPress));
}

function createRow({ id, model, split, digest, created }) {
  const row = document.createElement("tr");
  row.id = `evaluation-${id}`;
  row.innerHTML = `<td><details><summary></summary><small></small></details></td><td></td><td></td>
    <td><progress hidden></progress> <span role="status"></span><span class="counter"></span></td>
    <td><button type="button"></button></td>`;
  const [modelCell, splitCell, createdCell] = row.children;
  modelCell.querySelector("summary").textContent = model;
  modelCell.querySelector("small").textContent = `digest ${digest}`;
  splitCell.textContent = split;
  createdCell.textContent = dateFormat.format(new Date(created));
  row.querySelector("progress").setAttribute("aria-label", `evaluation of ${model}`);
  return row;
}

function updateRow(row, evaluation, shown, onPress) {
  const progress = row.querySelector("progress"), button = row.querySelector("button");
  const status = row.querySelector("[role=status]"), counter = row.querySelector(".counter");
  const { done, total } = evaluation.progress;
  const active = isActive(evaluation);
  const text = evaluation.error ? `${evaluation.state}: ${evaluation.error}` : evaluation.state;
  Object.assign(progress, { hidden: !active, max: total || 1, value: done });
  if (status.textContent !== text) status.textContent = text; // screen readers read every assignment
  status.className = evaluation.state === "failed" ? "error" : "";
  counter.textContent = active ? `, ${done} of ${total}` : "";
  const noAction = !active && evaluation.state !== "done";
  if (noAction && document.activeElement === button) {
    row.tabIndex = -1; // the row takes over the focus of the button that disappears
    row.focus();
  }
  button.hidden = noAction;
  button.textContent = active ? "Cancel" : shown ? "Hide" : "Show";
  button.setAttribute("aria-label", `${button.textContent} the evaluation of ${evaluation.model}`);
  button.onclick = () => onPress(evaluation);
}
