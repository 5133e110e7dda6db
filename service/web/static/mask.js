// Label maps: decode the service's PNG to one value per pixel; count, compare and paint the classes.
// The PNG is decoded here instead of on a canvas: some browsers add noise to canvas contents against fingerprinting,
// others change the values by color management.

/** @import { LabelClass } from "./api.js" */

/**
 * A label map, or a map of confidences: one byte per pixel, row by row.
 * @typedef {{width: number, height: number, labels: Uint8Array}} Mask
 */

const IGNORE_INDEX = 255; // of void pixels, which have no class and no color
const MAX_CANVAS_PIXELS = 4_000_000; // a larger mask is painted with fewer pixels; its labels stay complete
const IDAT = 0x49444154;

/**
 * Decode a PNG of the service with one byte per pixel: indexed or grayscale, not interlaced.
 * @param {ArrayBuffer} bytes
 * @returns {Promise<Mask>}
 * @throws {Error} if the PNG is invalid or the browser cannot decompress it
 */
export async function decodeMask(bytes) {
  const view = new DataView(bytes);
  const width = view.getUint32(16), height = view.getUint32(20);
  const compressed = [];
  for (let offset = 8; offset < bytes.byteLength; offset += 12 + view.getUint32(offset)) {
    if (view.getUint32(offset + 4) === IDAT) compressed.push(new Uint8Array(bytes, offset + 8, view.getUint32(offset)));
  }
  const stream = new Blob(compressed).stream().pipeThrough(new DecompressionStream("deflate"));
  const rows = new Uint8Array(await new Response(stream).arrayBuffer());
  const labels = new Uint8Array(width * height);
  let above = new Uint8Array(width);
  for (let y = 0; y < height; y++) {
    const start = y * (width + 1); // every row starts with its filter type
    const row = labels.subarray(y * width, (y + 1) * width);
    row.set(rows.subarray(start + 1, start + 1 + width));
    unfilterRow(rows[start], row, above);
    above = row;
  }
  return { width, height, labels };
}

/** Undo the filter of a row with one byte per pixel, in place (W3C PNG, section 9). Masks are not filtered, confidences are. */
function unfilterRow(filter, row, above) {
  if (filter === 0) return;
  for (let x = 0; x < row.length; x++) {
    const left = x ? row[x - 1] : 0, up = above[x], upperLeft = x ? above[x - 1] : 0;
    if (filter === 1) row[x] += left;
    else if (filter === 2) row[x] += up;
    else if (filter === 3) row[x] += (left + up) >> 1;
    else row[x] += paeth(left, up, upperLeft);
  }
}

/** The neighbor that is closest to left + up - upperLeft. */
function paeth(left, up, upperLeft) {
  const toLeft = Math.abs(up - upperLeft), toUp = Math.abs(left - upperLeft), toUpperLeft = Math.abs(left + up - 2 * upperLeft);
  if (toLeft <= toUp && toLeft <= toUpperLeft) return left;
  return toUp <= toUpperLeft ? up : upperLeft;
}

/**
 * Count the pixels of each of the 256 label values.
 * @param {Uint8Array} labels
 * @returns {Uint32Array} 256 counts
 */
export function countLabels(labels) {
  const counts = new Uint32Array(256);
  for (let i = 0; i < labels.length; i++) counts[labels[i]]++;
  return counts;
}

/**
 * Compare masks of the same image.
 * @param {Mask[]} masks of equal size, at least one
 * @returns {Mask & {fraction: number}} 1 where the masks are not all equal, else 0; and the fraction of ones
 */
export function diffMasks(masks) {
  const [{ width, height, labels: first }, ...others] = masks;
  const labels = new Uint8Array(first.length);
  for (const { labels: other } of others) {
    for (let i = 0; i < first.length; i++) if (first[i] !== other[i]) labels[i] = 1;
  }
  let different = 0;
  for (let i = 0; i < labels.length; i++) different += labels[i];
  return { width, height, labels, fraction: different / labels.length };
}

/**
 * Return the lookup table that `paintMask` colors the classes with.
 * @param {LabelClass[]} classes
 * @param {Set<string>} hidden names of the classes to leave transparent
 * @returns {Uint32Array} 256 pixels
 */
export function colorTable(classes, hidden) {
  const table = new Uint32Array(256);
  classes.forEach(({ name, color: [r, g, b] }, index) => {
    if (!hidden.has(name) && index !== IGNORE_INDEX) table[index] = packColor(r, g, b);
  });
  return table;
}

/** The lookup table that paints a map of confidences: 0 is black, 255 white. */
export const grayTable = Uint32Array.from({ length: 256 }, (_, value) => packColor(value, value, value));

/** Pack a color into the 32-bit word of an ImageData pixel, red in the lowest byte (all browsers run on little-endian CPUs). */
export function packColor(r, g, b, a = 255) {
  return ((a << 24) | (b << 16) | (g << 8) | r) >>> 0;
}

/**
 * Paint a mask on a canvas, which gets the mask's size or an integer fraction of it.
 * @param {HTMLCanvasElement} canvas
 * @param {Mask} mask
 * @param {Uint32Array} table 256 pixels, from `colorTable`
 * @param {boolean} striped paint diagonal stripes only
 */
export function paintMask(canvas, { width, height, labels }, table, striped = false) {
  const step = Math.ceil(Math.sqrt((width * height) / MAX_CANVAS_PIXELS));
  const canvasWidth = Math.ceil(width / step), canvasHeight = Math.ceil(height / step);
  if (canvas.width !== canvasWidth || canvas.height !== canvasHeight) { // an assignment reallocates the canvas
    canvas.width = canvasWidth;
    canvas.height = canvasHeight;
  }
  const image = new ImageData(canvasWidth, canvasHeight);
  const pixels = new Uint32Array(image.data.buffer);
  const stripeWidth = Math.max(4, canvasWidth >> 7);
  for (let y = 0, target = 0; y < canvasHeight; y++) {
    for (let x = 0, source = y * step * width; x < canvasWidth; x++, source += step, target++) {
      if (!striped || ((x + y) / stripeWidth) & 1) pixels[target] = table[labels[source]];
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}
