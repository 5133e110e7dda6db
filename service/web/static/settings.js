// Settings of the segment page that survive a reload, in the browser's local storage.

/**
 * Everything is optional: nothing is stored until the user changes it.
 * @typedef {{models?: string[], view?: "overlay" | "mask" | "confidence", opacity?: number}} Settings
 */

const ITEM = "segment-settings";
const CHECKS = {
  models: (value) => Array.isArray(value) && value.every((name) => typeof name === "string"),
  view: (value) => ["overlay", "mask", "confidence"].includes(value),
  opacity: (value) => Number.isInteger(value) && value >= 0 && value <= 100, // percent
};

/**
 * Return the stored settings without those that are not valid, for example from another version of the page.
 * @returns {Settings}
 */
export function readSettings() {
  try {
    const stored = JSON.parse(localStorage.getItem(ITEM)) ?? {};
    return Object.fromEntries(Object.entries(CHECKS).flatMap(([key, check]) => (check(stored[key]) ? [[key, stored[key]]] : [])));
  } catch { // not JSON, or the browser blocks the storage
    return {};
  }
}

/**
 * Store settings; the others stay as they are.
 * @param {Settings} changes
 */
export function storeSettings(changes) {
  try {
    localStorage.setItem(ITEM, JSON.stringify({ ...readSettings(), ...changes }));
  } catch { /* The storage is blocked or full: the settings last until the page is closed. */ }
}
