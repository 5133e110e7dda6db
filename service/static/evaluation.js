// The evaluations' page: start one, follow it, and two reports side by side.

import { usable } from "./models.js";
import { report } from "./report.js";
import { ask, events } from "./service.js";

const SHOWN = 2; // reports side by side
const AGAIN = 1000; // milliseconds until a stream that broke off is asked for again
const $ = (id) => document.getElementById(id);
const time = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short" });

export class EvaluationPage {
  #jobs = [];
  #shown = []; // ids, the newest last
  #colours = {}; // of the classes, by model
  #leaving = new AbortController();
  #followed = new Set(); // ids of those that are followed

  /** `refused` is called with every Refusal. */
  constructor(refused) {
    this.refused = refused;
    $("start").onsubmit = (event) => { event.preventDefault(); this.#start(); };
  }

  /** The models that can be evaluated: GET /models. */
  list({ models, default: first }) {
    const chosen = $("start-model").value || first;
    const answering = models.filter(usable);
    $("start-model").replaceChildren(...answering.map(({ name }) => new Option(name, name, false, name === chosen)));
    for (const { name, labels } of answering) this.#colours[name] = labels.classes.map(({ colour }) => `rgb(${colour})`);
  }

  /** Ask for the list, and follow what runs. */
  async open() {
    this.close();
    const { signal } = (this.#leaving = new AbortController());
    this.#followed.clear();
    try {
      const listed = (await (await ask("evaluate", { signal })).json()).evaluations;
      const ids = new Set(listed.map(({ id }) => id));
      this.#jobs = [...this.#jobs.filter((job) => active(job) && !ids.has(job.id)), ...listed]; // one may have been begun meanwhile
      this.#draw();
      await Promise.all(this.#jobs.filter(active).map(({ id }) => this.#follow(id, signal)));
    } catch (error) {
      if (error.name !== "AbortError") this.refused(error);
    }
  }

  /** Nobody looks any more. */
  close() {
    this.#leaving.abort();
  }

  async #start() {
    const query = new URLSearchParams({ model: $("start-model").value, split: $("start-split").value });
    try {
      const job = await (await ask(`evaluate?${query}`, { method: "POST" })).json();
      $("notice").hidden = true;
      this.#jobs = [job, ...this.#jobs.filter(({ id }) => id !== job.id)];
      this.#draw();
      await this.#follow(job.id, this.#leaving.signal);
    } catch (error) {
      if (error.name !== "AbortError") this.refused(error);
    }
  }

  /** Until it ends; where the stream breaks off, ask again. */
  async #follow(id, signal) {
    if (this.#followed.has(id)) return;
    this.#followed.add(id);
    while (!signal.aborted) {
      for await (const job of events(id, signal)) {
        this.#jobs = this.#jobs.map((each) => (each.id === id ? job : each));
        this.#update(job);
        if (job.state === "done") await this.#show(id);
        if (!active(job)) return;
      }
      await new Promise((go) => setTimeout(go, AGAIN));
    }
  }

  #draw() {
    if (!this.#jobs.length) {
      $("jobs").innerHTML = `<p class="faint">No evaluation yet.</p>`;
      return;
    }
    $("jobs").innerHTML = `<div class="wide" tabindex="0" role="region" aria-label="Evaluations"><table>
      <thead><tr><th scope="col">Model</th><th scope="col">Split</th><th scope="col">Digest</th><th scope="col">When</th>
      <th scope="col">State</th><th scope="col"></th></tr></thead><tbody></tbody></table></div>`;
    $("jobs").querySelector("tbody").append(...this.#jobs.map((job) => this.#row(job)));
    this.#jobs.forEach((job) => this.#update(job));
  }

  #row(job) {
    const row = document.createElement("tr");
    row.id = `job-${job.id}`;
    row.innerHTML = `<td></td><td></td><td><code></code></td><td></td><td><progress hidden></progress> <span role="status"></span></td><td><button type="button"></button></td>`;
    const [model, split, digest, when] = row.children;
    model.textContent = job.model;
    split.textContent = job.split;
    digest.firstChild.textContent = job.digest.slice(0, 12);
    when.textContent = time.format(new Date(job.created));
    return row;
  }

  #update(job) {
    const row = $(`job-${job.id}`);
    if (!row) return;
    const progress = row.querySelector("progress"), told = row.querySelector("span"), button = row.querySelector("button");
    const { done, total } = job.progress;
    Object.assign(progress, { hidden: !active(job), max: total || 1, value: done });
    progress.setAttribute("aria-label", `evaluation of ${job.model}`);
    told.textContent = active(job) ? `${job.state}, ${done} of ${total}` : `${job.state}${job.error ? `: ${job.error}` : ""}`;
    told.className = job.state === "failed" ? "bad" : "";
    const shown = this.#shown.includes(job.id);
    button.hidden = !active(job) && job.state !== "done";
    button.textContent = active(job) ? "Cancel" : shown ? "Hide" : "Show";
    button.setAttribute("aria-label", `${button.textContent} the evaluation of ${job.model}`);
    button.onclick = () => (active(job) ? this.#cancel(job) : shown ? this.#hide(job.id) : this.#show(job.id));
  }

  async #cancel(job) {
    try {
      await ask(`evaluate/${job.id}`, { method: "DELETE" });
      await this.open();
    } catch (error) {
      this.refused(error);
    }
  }

  #hide(id) {
    this.#shown = this.#shown.filter((each) => each !== id);
    document.getElementById(`report-${id}`)?.remove();
    this.#jobs.forEach((job) => this.#update(job));
  }

  async #show(id) {
    try {
      const job = await (await ask(`evaluate/${id}`)).json();
      if (this.#shown.includes(id)) return; // a second click came first
      while (this.#shown.length >= SHOWN) this.#hide(this.#shown[0]);
      this.#shown.push(id);
      const element = report(job.report, this.#colours[job.model] ?? []);
      element.id = `report-${id}`;
      $("reports").append(element);
      this.#jobs.forEach((each) => this.#update(each));
    } catch (error) {
      this.refused(error);
    }
  }
}

const active = ({ state }) => state === "queued" || state === "running";
