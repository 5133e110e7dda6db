// The evaluations' page: start one, follow it, and two reports side by side.

import { active, fillJobs } from "./jobs.js";
import { usable } from "./models.js";
import { report } from "./report.js";
import { ask } from "./service.js";

const SHOWN = 2; // reports side by side
const AGAIN = 1000; // milliseconds until those under way are asked for again: a stream for each would take up the browser's six connections
const $ = (id) => document.getElementById(id);

export class EvaluationPage {
  #jobs = [];
  #shown = []; // ids, the newest last
  #colours = {}; // of the classes, by model
  #leaving = new AbortController();

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

  /** Ask for the list, and again as long as anything is under way. */
  async open() {
    this.close();
    if ($("evaluation").hidden) return; // nobody looks
    const { signal } = (this.#leaving = new AbortController());
    try {
      for (;;) {
        const { evaluations } = await (await ask("evaluate", { signal })).json();
        if (signal.aborted) return;
        await this.#take(evaluations);
        do {
          if (!this.#jobs.some(active)) return;
          await new Promise((go) => setTimeout(go, AGAIN));
        } while (await this.#go(signal));
      }
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
      await this.open();
    } catch (error) {
      this.refused(error);
    }
  }

  /** The list as it is now; the report of what has come to its end meanwhile is shown. */
  async #take(listed) {
    const before = new Set(this.#jobs.filter(active).map(({ id }) => id));
    this.#jobs = listed;
    this.#draw();
    for (const { id, state } of listed) if (state === "done" && before.has(id)) await this.#show(id);
  }

  /** Look at those that are under way, which the list may be a thousand times as long as. Whether all of them still are. */
  async #go(signal) {
    const now = new Map();
    for (const { id } of this.#jobs.filter(active)) now.set(id, await (await ask(`evaluate/${id}`, { signal })).json());
    if (![...now.values()].every(active)) return false;
    this.#jobs = this.#jobs.map((job) => now.get(job.id) ?? job);
    this.#draw();
    return true;
  }

  #draw() {
    fillJobs($("jobs"), this.#jobs, this.#shown, (job) => this.#pressed(job));
  }

  #pressed(job) {
    if (active(job)) this.#cancel(job);
    else if (this.#shown.includes(job.id)) this.#hide(job.id);
    else this.#show(job.id);
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
    this.#draw();
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
      this.#draw();
    } catch (error) {
      this.refused(error);
    }
  }
}
