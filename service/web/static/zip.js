// ZIP files with stored (uncompressed) entries: images are compressed already.

/** A file in a ZIP. @typedef {{name: string, bytes: ArrayBuffer}} ZipEntry */

const VERSION = 20; // the ZIP version that a reader must support, times ten
const UTF8_NAMES = 0x800; // flag: the names are UTF-8
const MAX_ENTRIES = 0xffff;
const MAX_BYTES = 0xffffffff; // more of either would need ZIP64

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  return crc;
});

/** The CRC-32 of some bytes, as ZIP and PNG use it. */
function crc32(bytes) {
  let crc = 0xffffffff;
  for (let i = 0; i < bytes.length; i++) crc = CRC_TABLE[(crc ^ bytes[i]) & 0xff] ^ (crc >>> 8);
  return ~crc >>> 0;
}

/** The local time as MS-DOS stores it: 16 bits of time (in steps of two seconds) below 16 bits of date. */
function dosTime(date) {
  const time = (date.getHours() << 11) | (date.getMinutes() << 5) | (date.getSeconds() >> 1);
  return ((((date.getFullYear() - 1980) << 9) | ((date.getMonth() + 1) << 5) | date.getDate()) * 0x10000 + time) >>> 0;
}

/** A record of little-endian fields, each given as [bytes, value]. */
function packRecord(fields) {
  const view = new DataView(new ArrayBuffer(fields.reduce((sum, [size]) => sum + size, 0)));
  let offset = 0;
  for (const [size, value] of fields) {
    if (size === 2) view.setUint16(offset, value, true);
    else view.setUint32(offset, value, true);
    offset += size;
  }
  return view;
}

/**
 * Create a ZIP file.
 * @param {ZipEntry[]} entries with unique names
 * @returns {Blob}
 * @throws {Error} if there are too many files or bytes for a ZIP
 */
export function createZip(entries) {
  if (entries.length > MAX_ENTRIES) throw new Error(`A ZIP file can hold ${MAX_ENTRIES} files; save fewer images at once.`);
  const modified = dosTime(new Date()), files = [], directory = [];
  let offset = 0, directorySize = 0;
  for (const { name, bytes } of entries) {
    const encodedName = new TextEncoder().encode(name);
    const common = [ // the fields that both headers of a file contain, from "version needed" to "extra field length"
      [2, VERSION], [2, UTF8_NAMES], [2, 0 /* stored */], [4, modified], [4, crc32(new Uint8Array(bytes))],
      [4, bytes.byteLength], [4, bytes.byteLength], [2, encodedName.length], [2, 0],
    ];
    const header = packRecord([[4, 0x04034b50], ...common]);
    files.push(header, encodedName, bytes);
    directory.push(
      packRecord([[4, 0x02014b50], [2, VERSION], ...common, [2, 0], [2, 0], [2, 0], [4, 0], [4, offset]]), encodedName,
    );
    offset += header.byteLength + encodedName.length + bytes.byteLength;
    directorySize += directory.at(-2).byteLength + encodedName.length;
    if (offset + directorySize > MAX_BYTES) throw new Error("The files exceed 4 GB, the limit of a ZIP file; save fewer at once.");
  }
  const end = packRecord([
    [4, 0x06054b50], [2, 0], [2, 0], [2, entries.length], [2, entries.length], [4, directorySize], [4, offset], [2, 0],
  ]);
  return new Blob([...files, ...directory, end], { type: "application/zip" });
}
