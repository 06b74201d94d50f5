// NumPy's .npz: a zip, not compressed, of .npy files.

const encoder = new TextEncoder();

// One .npy file (numpy.lib.format, version 1.0): magic, header of a multiple of 64 bytes, values.
function npy(descr, shape, bytes) {
  const sides = `(${shape.join(", ")}${shape.length === 1 ? "," : ""})`;
  let header = `{'descr': '${descr}', 'fortran_order': False, 'shape': ${sides}, }`;
  header += " ".repeat(63 - ((10 + header.length) % 64)) + "\n";
  const head = new Uint8Array([0x93, ...encoder.encode("NUMPY"), 1, 0, header.length & 255, header.length >> 8]);
  return concatenate([head, encoder.encode(header), bytes]);
}

export function floats(values, shape) {
  return npy("<f4", shape, new Uint8Array(Float32Array.from(values).buffer));
}

export function bytes(values, shape) {
  return npy("|u1", shape, Uint8Array.from(values));
}

// A text, as NumPy's array of one string: four bytes a character.
export function text(words) {
  const codes = Uint32Array.from(words, (character) => character.codePointAt(0));
  return npy(`<U${codes.length}`, [], new Uint8Array(codes.buffer));
}

// Arrays by name, each made by one of the above, as one file.
export function npz(arrays) {
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const [name, content] of Object.entries(arrays)) {
    const file = encoder.encode(`${name}.npy`);
    const about = fields([[4, crc32(content)], [4, content.length], [4, content.length], [2, file.length]]);
    const start = [[2, 20], [2, 0x800], [2, 0], [2, 0], [2, 0x21]]; // version, UTF-8, stored, time, day
    const local = [fields([[4, 0x04034b50], ...start]), about, fields([[2, 0]]), file, content];
    const entry = [
      fields([[4, 0x02014b50], [2, 20], ...start]),
      about,
      fields([[2, 0], [2, 0], [2, 0], [2, 0], [4, 0], [4, offset]]),
      file,
    ];
    parts.push(...local);
    directory.push(...entry);
    offset += local.reduce((sum, part) => sum + part.length, 0);
  }
  const count = Object.keys(arrays).length;
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const end = fields([[4, 0x06054b50], [2, 0], [2, 0], [2, count], [2, count], [4, size], [4, offset], [2, 0]]);
  return concatenate([...parts, ...directory, end]);
}

// Whole numbers, each of so many bytes, the least first.
function fields(pairs) {
  return new Uint8Array(pairs.flatMap(([size, value]) => Array.from({ length: size }, (_, i) => (value >>> (8 * i)) & 255)));
}

function concatenate(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function crc32(content) {
  let crc = ~0;
  for (const byte of content) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}
