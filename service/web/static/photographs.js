// The photographs that were given, and their masks by every model that is chosen: two requests at a time, the shown one first.

import { address, post } from "./service.js";

const AT_ONCE = 2;
const TRIES = 5; // where the service is busy

export class Photographs extends EventTarget {
  items = [];
  current = null;
  models = []; // chosen ones
  how = { native: false, flip: false };
  renew = async () => {}; // lists the models anew
  #under = new Set(); // requests under way

  /** Take files; the first of them is shown. */
  add(files) {
    const taken = [...files].map((file) => {
      const name = file.name || "photograph";
      return { file, name, url: URL.createObjectURL(file), results: new Map(), renewed: new Set() };
    });
    this.items.push(...taken);
    if (taken.length) this.choose(taken[0]);
  }

  /** Show this one. */
  choose(item) {
    this.current = item;
    this.#tell(item);
    this.#pump();
  }

  /** Let go of one; the next one is shown. */
  remove(item) {
    const place = this.items.indexOf(item);
    this.items.splice(place, 1);
    URL.revokeObjectURL(item.url);
    this.#stop();
    if (this.current !== item) return;
    this.current = null;
    const next = this.items[place] ?? this.items[place - 1];
    if (next) this.choose(next);
    else this.#tell(null);
  }

  /** From now on by these models, in this way. */
  want(models, how) {
    this.models = models;
    this.how = how;
    this.#stop();
    this.items.forEach((item) => this.#tell(item));
    this.#pump();
  }

  /** What there is of a photograph's mask by a model. */
  result(item, model) {
    return item.results.get(this.#key(model)) ?? { state: "waiting", told: "waiting for its turn" };
  }

  /** Whether anything failed for want of a service, or of a key. */
  get failing() {
    return this.items.some((item) => this.models.some((model) => this.result(item, model).again));
  }

  /** Ask for that again. */
  retry() {
    for (const item of this.items) {
      for (const [key, result] of item.results) if (result.again) item.results.delete(key);
      this.#tell(item);
    }
    this.#pump();
  }

  /** End the requests that nobody wants any more. */
  #stop() {
    const wanted = new Set(this.models.map((model) => this.#key(model)));
    for (const run of this.#under) {
      if (this.items.includes(run.item) && wanted.has(run.key)) continue;
      run.leaving.abort();
      run.item.results.delete(run.key);
      this.#under.delete(run);
    }
  }

  /** What a result is kept by: a mask of a model that has been changed since is another one. */
  #key({ name, digest }) {
    return `${address(name, this.how)} ${digest}`;
  }

  #tell(item) {
    this.dispatchEvent(new CustomEvent("change", { detail: item }));
  }

  #pump() {
    const inOrder = this.current ? [this.current, ...this.items] : [];
    for (const item of inOrder) {
      for (const model of this.models) {
        if (this.#under.size >= AT_ONCE) return;
        if (!item.results.has(this.#key(model))) this.#run(item, model);
      }
    }
  }

  async #run(item, model) {
    const path = address(model.name, this.how), key = this.#key(model), leaving = new AbortController(), run = { item, key, leaving };
    this.#under.add(run);
    const set = (result) => {
      if (leaving.signal.aborted) return;
      item.results.set(key, result);
      this.#tell(item);
    };
    set({ state: "sending", sent: 0, told: "sending …" });
    try {
      const result = await this.#ask(item, path, set, leaving.signal);
      if (result.digest !== model.digest) await this.#renew(item, model, result);
      set(result);
    } catch (error) {
      set({ state: "failed", error: error.message, again: error.code === "unreachable" || error.needsKey || error.status === 503 });
      if (!leaving.signal.aborted) this.dispatchEvent(new CustomEvent("refused", { detail: error }));
    }
    this.#under.delete(run);
    this.#pump();
  }

  /** Another model than the page knows has answered: its classes are asked for before its mask is shown. */
  async #renew(item, { name }, result) {
    const path = address(name, this.how);
    if (item.renewed.has(path)) return; // only once: replicas may never agree on what they serve
    item.renewed.add(path);
    item.results.set(this.#key({ name, digest: result.digest }), result); // there it is found once the model is listed, and not asked for again
    await this.renew();
  }

  async #ask(item, path, set, signal) {
    for (let left = TRIES; ; left--) {
      try {
        const began = performance.now();
        const { bytes, header } = await post(path, item.file, (sent) =>
          set(sent < 1 ? { state: "sending", sent, told: `sending: ${Math.round(sent * 100)} %` } : { state: "working", told: "being segmented …" }), signal);
        const stages = [...header("Server-Timing").matchAll(/dur=([\d.]+)/g)].map((found) => Number(found[1]));
        return {
          state: "done", told: "done", bytes, backend: header("Segment-Backend"), digest: header("Segment-Digest"),
          inside: stages.reduce((sum, ms) => sum + ms, 0), whole: performance.now() - began,
        };
      } catch (error) {
        if (error.code !== "overloaded" || left <= 1 || signal.aborted) throw error;
        set({ state: "working", told: `the service is busy: again in ${error.after ?? 1} s` });
        await new Promise((go) => setTimeout(go, (error.after ?? 1) * 1000));
      }
    }
  }
}
