// The list of evaluations: what each is of, how far it is, and a button for what can be done with it.

const TABLE = `<div class="wide" tabindex="0" role="region" aria-label="Evaluations"><table>
  <thead><tr><th scope="col">Model</th><th scope="col">Split</th><th scope="col">Digest</th><th scope="col">When</th>
  <th scope="col">State</th><th scope="col"></th></tr></thead><tbody></tbody></table></div>`;
const time = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short" });

/** Whether an evaluation is still to end. */
export const active = ({ state }) => state === "queued" || state === "running";

/** Fill the list. `shown` are the ids of those whose report is to be seen; `pressed` is called with the one whose button is. */
export function fillJobs(list, jobs, shown, pressed) {
  if (!jobs.length) {
    list.innerHTML = `<p class="faint">No evaluation yet.</p>`;
    return;
  }
  if (!list.querySelector("table")) list.innerHTML = TABLE;
  const body = list.querySelector("tbody");
  // rows that are there stay: so does the focus, and a screen reader hears only what changes in them
  const rows = jobs.map((job) => document.getElementById(`job-${job.id}`) ?? rowOf(job));
  rows.forEach((row, n) => row !== body.children[n] && body.insertBefore(row, body.children[n] ?? null));
  while (body.children.length > rows.length) body.lastChild.remove(); // forgotten by the service
  rows.forEach((row, n) => update(row, jobs[n], shown.includes(jobs[n].id), pressed));
}

function rowOf({ id, model, split, digest, created }) {
  const row = document.createElement("tr");
  row.id = `job-${id}`;
  row.innerHTML = `<td></td><td></td><td><code></code></td><td></td>
    <td><progress hidden></progress> <span role="status"></span><span></span></td><td><button type="button"></button></td>`;
  row.children[0].textContent = model;
  row.children[1].textContent = split;
  row.children[2].firstChild.textContent = digest.slice(0, 12);
  row.children[3].textContent = time.format(new Date(created));
  row.querySelector("progress").setAttribute("aria-label", `evaluation of ${model}`);
  return row;
}

function update(row, job, shown, pressed) {
  const progress = row.querySelector("progress"), [told, far] = row.querySelectorAll("span"), button = row.querySelector("button");
  const { done, total } = job.progress;
  const state = job.error ? `${job.state}: ${job.error}` : job.state;
  Object.assign(progress, { hidden: !active(job), max: total || 1, value: done });
  if (told.textContent !== state) told.textContent = state; // what is written here is said aloud
  told.className = job.state === "failed" ? "bad" : "";
  far.textContent = active(job) ? `, ${done} of ${total}` : "";
  const nothing = !active(job) && job.state !== "done";
  if (nothing && document.activeElement === button) {
    row.tabIndex = -1; // it takes the focus of a button that goes
    row.focus();
  }
  button.hidden = nothing;
  button.textContent = active(job) ? "Cancel" : shown ? "Hide" : "Show";
  button.setAttribute("aria-label", `${button.textContent} the evaluation of ${job.model}`);
  button.onclick = () => pressed(job);
}
