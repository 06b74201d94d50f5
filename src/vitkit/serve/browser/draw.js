// Maps in colours, over images and beside their bars.

const STEPS = 256;
const ramps = { plain: null, signed: null }; // STEPS colours each
const drawn = new WeakMap(); // canvases of maps

// Take the server's colour maps, which are those of its own pictures.
export function useColours(given) {
  for (const name of ["plain", "signed"]) {
    const shares = Array.from({ length: STEPS }, (_, i) => i / (STEPS - 1));
    ramps[name] = shares.map((share) => between(given[name], share));
  }
}

// The colour at a share of the way along some anchors.
function between(anchors, share) {
  const at = share * (anchors.length - 1);
  const low = Math.min(Math.floor(at), anchors.length - 2);
  return anchors[low].map((value, i) => value + (at - low) * (anchors[low + 1][i] - value));
}

// Least and most of the values; with sign, so that 0 is in the middle.
export function range(map) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of map.values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (!map.signed) return [low, high];
  const most = Math.max(-low, high);
  return [-most, most];
}

// A map of rows x columns as a canvas with a pixel for each cell.
export function toCanvas(map, canvas = document.createElement("canvas")) {
  canvas.width = map.columns;
  canvas.height = map.rows;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(map.columns, map.rows);
  const ramp = map.signed ? ramps.signed : ramps.plain;
  const [low, high] = range(map);
  const scale = high > low ? (STEPS - 1) / (high - low) : 0;
  const even = map.signed && !scale ? STEPS / 2 : 0;
  for (let i = 0; i < map.values.length; i++) {
    const [r, g, b] = ramp[Math.round((map.values[i] - low) * scale) + even];
    pixels.data[4 * i] = r;
    pixels.data[4 * i + 1] = g;
    pixels.data[4 * i + 2] = b;
    pixels.data[4 * i + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

// An image in grey, (luma of ITU-R BT.601), so that colours over it are those of the map alone.
export function toGrey(bitmap) {
  const canvas = document.createElement("canvas");
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < pixels.data.length; i += 4) {
    const [r, g, b] = pixels.data.subarray(i, i + 3);
    pixels.data.fill(0.299 * r + 0.587 * g + 0.114 * b, i, i + 3);
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

// The size of an image in whole steps, its longer side having at least so many pixels.
export function enlarged({ width, height }, side) {
  const times = Math.max(Math.ceil(side / Math.max(width, height)), 1);
  return { width: width * times, height: height * times };
}

// An image, and a map over it if there is one, in a box of a canvas.
export function paint(context, image, map, { width, height, opacity, smooth, left = 0, top = 0 }) {
  context.imageSmoothingQuality = "high";
  context.imageSmoothingEnabled = width < 3 * image.bitmap.width; // tiny images keep their pixels
  const covered = map && opacity > 0;
  context.drawImage(covered ? image.grey : image.bitmap, left, top, width, height);
  if (!covered) return;
  context.globalAlpha = opacity;
  context.imageSmoothingEnabled = smooth;
  if (!drawn.has(map)) drawn.set(map, toCanvas(map));
  context.drawImage(drawn.get(map), left, top, width, height);
  context.globalAlpha = 1;
}

// The bar that says what colours mean, least to most, on a canvas one pixel high or wide.
export function paintBar(canvas, signed) {
  const values = Array.from({ length: STEPS }, (_, i) => (2 * i) / (STEPS - 1) - 1);
  toCanvas({ rows: 1, columns: STEPS, values, signed }, canvas);
}

// What the colours of a map mean at its least, in the middle and at its most.
export function numbers(map) {
  const [low, high] = range(map);
  const places = high > low ? Math.max(1 - Math.floor(Math.log10(high - low)), 0) : 2;
  const said = (value) => (places > 4 && value ? value.toExponential(1) : value.toFixed(Math.min(places, 4)));
  const [least, middle, most] = [low, (low + high) / 2, high].map(said);
  return map.signed ? [least, said(0), `+${most}`] : [least, middle, most];
}
