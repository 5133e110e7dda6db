// Evaluation page: start an evaluation, follow its progress, and show up to two reports side by side.

import { fetchDifference, fetchEvaluation, fetchSplits, request, requestJson } from "./api.js";
import { isActive, renderEvaluationTable } from "./evaluation-table.js";
import { isUsable } from "./model-picker.js";
import { loadExamples } from "./report-examples.js";
import { renderReport, renderScores } from "./report.js";

/** @import { ApiError, Model } from "./api.js" */
/** @import { Evaluation } from "./evaluation-table.js" */

const MAX_REPORTS = 2; // side by side
const POLL_MS = 1000; // polling, because one event stream per evaluation would use up the browser's six connections
const $ = (id) => document.getElementById(id);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class EvaluationPage {
  /** @type {Evaluation[]} */
  #evaluations = [];
  /** @type {Map<string, {evaluation: Evaluation, element: HTMLElement, loading: AbortController}>} */
  #shown = new Map(); // the evaluations whose report is shown by id, the latest last
  #colors = {}; // CSS colors of the classes by model name
  #polling = new AbortController();

  /** @param {(error: ApiError) => void} onError called with every error */
  constructor(onError) {
    this.onError = onError;
    $("evaluation-form").onsubmit = (event) => { event.preventDefault(); this.#start(); };
  }

  /**
   * Offer the service's models and keep the selected one.
   * @param {{models: Model[], default: string}} list of `GET /models`
   */
  updateModels({ models, default: defaultName }) {
    const selected = $("evaluation-model").value || defaultName;
    const usable = models.filter(isUsable);
    $("evaluation-model").replaceChildren(...usable.map(({ name }) => new Option(name, name, false, name === selected)));
    for (const { name, labels } of usable) this.#colors[name] = labels.classes.map(({ color }) => `rgb(${color})`);
  }

  /** Load the evaluations and poll them as long as one is active. */
  async open() {
    this.close();
    if ($("evaluation").hidden) return;
    const { signal } = (this.#polling = new AbortController());
    try {
      for (;;) {
        const { evaluations } = await requestJson("evaluate", { signal });
        if (signal.aborted) return;
        this.#loadSplits(signal);
        await this.#setEvaluations(evaluations);
        do {
          if (!this.#evaluations.some(isActive)) return;
          await sleep(POLL_MS);
        } while (await this.#pollActive(signal));
      }
    } catch (error) {
      if (error.name !== "AbortError") this.onError(error);
    }
  }

  /** Stop polling. */
  close() {
    this.#polling.abort();
  }

  /** Offer the splits of the dataset and keep the selected one; without a dataset, say why none can be evaluated. */
  async #loadSplits(signal) {
    const select = $("evaluation-split"), problem = $("dataset-problem");
    let splits = [];
    try {
      splits = await fetchSplits(signal);
      problem.textContent = "";
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.code !== "dataset_unavailable") {
        this.onError(error);
        return;
      }
      problem.textContent = error.message;
    }
    const selected = splits.includes(select.value) ? select.value : splits.find((name) => name.startsWith("val"));
    select.replaceChildren(...splits.map((name) => new Option(name, name, false, name === selected)));
    select.disabled = $("evaluation-form").querySelector("button").disabled = !splits.length;
  }

  async #start() {
    const query = new URLSearchParams({ model: $("evaluation-model").value, split: $("evaluation-split").value });
    try {
      const started = await requestJson(`evaluate?${query}`, { method: "POST" });
      $("notice").hidden = true;
      this.#evaluations = [started, ...this.#evaluations.filter(({ id }) => id !== started.id)];
      this.#render();
      await this.open();
    } catch (error) {
      this.onError(error);
    }
  }

  /** Show the list, and the reports of the evaluations that have finished since the last one. */
  async #setEvaluations(evaluations) {
    const wereActive = new Set(this.#evaluations.filter(isActive).map(({ id }) => id));
    this.#evaluations = evaluations;
    this.#render();
    for (const { id, state } of evaluations) if (state === "done" && wereActive.has(id)) await this.#showReport(id);
  }

  /** Update the active evaluations only, because the list can hold a thousand. Return false if one of them has ended. */
  async #pollActive(signal) {
    const updates = new Map();
    for (const { id } of this.#evaluations.filter(isActive)) updates.set(id, await requestJson(`evaluate/${id}`, { signal }));
    if (![...updates.values()].every(isActive)) return false;
    this.#evaluations = this.#evaluations.map((evaluation) => updates.get(evaluation.id) ?? evaluation);
    this.#render();
    return true;
  }

  #render() {
    renderEvaluationTable($("evaluations"), this.#evaluations, [...this.#shown.keys()], (evaluation) => this.#onPress(evaluation));
  }

  #onPress(evaluation) {
    if (isActive(evaluation)) this.#cancel(evaluation);
    else if (this.#shown.has(evaluation.id)) this.#hideReport(evaluation.id);
    else this.#showReport(evaluation.id);
  }

  async #cancel({ id }) {
    try {
      await request(`evaluate/${id}`, { method: "DELETE" });
      await this.open();
    } catch (error) {
      this.onError(error);
    }
  }

  #hideReport(id) {
    const { element, loading } = this.#shown.get(id);
    loading.abort();
    element.remove();
    this.#shown.delete(id);
    this.#render();
    this.#showDifference();
  }

  async #showReport(id) {
    try {
      const evaluation = await fetchEvaluation(id);
      if (this.#shown.has(id)) return; // the button was pressed twice
      while (this.#shown.size >= MAX_REPORTS) this.#hideReport(this.#shown.keys().next().value);
      const element = renderReport(evaluation, this.#colors[evaluation.model] ?? []);
      const loading = new AbortController();
      this.#shown.set(id, { evaluation, element, loading });
      $("reports").append(element);
      this.#render();
      loadExamples(element.querySelector(".report-examples"), evaluation, loading.signal);
      this.#showDifference();
    } catch (error) {
      this.onError(error);
    }
  }

  /** Show in the second report how its scores differ from those of the first one, or why they can't be compared. */
  async #showDifference() {
    const [first, second] = this.#shown.values();
    if (!first) return;
    const render = ({ evaluation, element }, comparison) =>
      renderScores(element.querySelector(".scores"), evaluation.report, this.#colors[evaluation.model] ?? [], comparison);
    render(first, null);
    if (!second) return;
    const baseName = first.evaluation.model;
    let comparison;
    try {
      comparison = { baseName, difference: await fetchDifference(second.evaluation.id, first.evaluation.id) };
    } catch (error) {
      if (error.code !== "not_comparable") {
        this.onError(error);
        return;
      }
      comparison = { baseName, problem: error.message };
    }
    const [currentFirst, currentSecond] = this.#shown.values();
    if (currentFirst === first && currentSecond === second) render(second, comparison);
  }
}
