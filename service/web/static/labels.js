// Masks as arrays: the class of each pixel out of the service's PNG, counted, compared and painted.

// Read here and not from a canvas, which some browsers blur on purpose (against fingerprinting) and others by colour management.

const NONE = 255; // the index of "no class"
const CANVAS = 4_000_000; // pixels that are painted at most; a larger mask is thinned out, for the eye only

/** The service's mask: { width, height, labels }, labels one byte a pixel, row by row. */
export async function readMask(bytes) {
  const view = new DataView(bytes);
  const width = view.getUint32(16), height = view.getUint32(20);
  const packed = [];
  for (let place = 8; place < bytes.byteLength; place += 12 + view.getUint32(place)) {
    if (view.getUint32(place + 4) === 0x49444154) packed.push(new Uint8Array(bytes, place + 8, view.getUint32(place))); // IDAT
  }
  const stream = new Blob(packed).stream().pipeThrough(new DecompressionStream("deflate"));
  const rows = new Uint8Array(await new Response(stream).arrayBuffer());
  const labels = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const begin = y * (width + 1); // each row begins with its filter, of which the service uses none
    if (rows[begin] !== 0) throw new Error("a mask with filtered rows");
    labels.set(rows.subarray(begin + 1, begin + 1 + width), y * width);
  }
  return { width, height, labels };
}

/** Pixels of each of the 256 values. */
export function count(labels) {
  const found = new Uint32Array(256);
  for (let i = 0; i < labels.length; i++) found[labels[i]]++;
  return found;
}

/** Where several masks of one photograph are not all the same: { width, height, labels } of 1 and 0, and the share of the ones. */
export function differences(masks) {
  const [{ width, height, labels: first }, ...others] = masks;
  const labels = new Uint8Array(first.length);
  let found = 0;
  for (const { labels: other } of others) {
    for (let i = 0; i < first.length; i++) if (first[i] !== other[i]) labels[i] = 1;
  }
  for (let i = 0; i < labels.length; i++) found += labels[i];
  return { width, height, labels, share: found / labels.length };
}

/** A look-up for `paint`: the colours of the classes whose names are not hidden, nothing for the rest. */
export function colours(classes, hidden) {
  const table = new Uint32Array(256);
  classes.forEach(({ name, colour: [r, g, b] }, k) => { if (!hidden.has(name) && k !== NONE) table[k] = rgba(r, g, b); });
  return table;
}

/** A pixel as ImageData holds it: a word, red in its lowest byte (every browser's machine has that order). */
export const rgba = (r, g, b, a = 255) => ((a << 24) | (b << 16) | (g << 8) | r) >>> 0;

/** Paint a mask by a look-up of 256 pixels, on a canvas that is made as large as the mask, or a part of it. */
export function paint(canvas, { width, height, labels }, table, striped = false) {
  const step = Math.ceil(Math.sqrt((width * height) / CANVAS));
  const w = Math.ceil(width / step), h = Math.ceil(height / step);
  if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
  const image = new ImageData(w, h);
  const pixels = new Uint32Array(image.data.buffer);
  const stripe = Math.max(4, w >> 7);
  for (let y = 0, to = 0; y < h; y++) {
    for (let x = 0, from = y * step * width; x < w; x++, from += step, to++) {
      if (!striped || ((x + y) / stripe) & 1) pixels[to] = table[labels[from]];
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}
