// What is on the image as a picture, as arrays, and as a link.

import { cellsOf, drawCovered } from "./cover.js";
import { enlarged, numbers, paint, paintBar } from "./draw.js";
import { shownMap } from "./maps.js";
import { bytes, floats, npz, text } from "./npz.js";
import { state } from "./state.js";
import { alert, say } from "./tell.js";
import { byId } from "./words.js";

const SIDE = 480; // pixels of the image in a picture, at least
const MARGIN = 24;
const BAR = 16;
const FONT = "15px system-ui, sans-serif";

export function startSaving() {
  byId("save-png").addEventListener("click", savePicture);
  byId("save-npz").addEventListener("click", saveArrays);
  byId("copy-link").addEventListener("click", copyLink);
}

// The image, the map over it and the bar of colours, with the title.
function savePicture() {
  const map = shownMap();
  const { bitmap } = state.image;
  const { width, height } = enlarged(bitmap, SIDE);
  const canvas = document.createElement("canvas");
  canvas.width = Math.max((map ? 2 * width + BAR + 3 * MARGIN + 72 : width) + 2 * MARGIN, 720);
  canvas.height = height + 4 * MARGIN;
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  const size = { width, height, left: MARGIN, top: 2 * MARGIN, opacity: state.opacity, smooth: state.smooth };
  paint(context, state.image, null, size);
  if (map) {
    paint(context, state.image, map, { ...size, left: width + 2 * MARGIN });
    context.save();
    context.translate(width + 2 * MARGIN, 2 * MARGIN);
    drawCovered(context, width, height);
    context.restore();
    drawBar(context, map, 2 * width + 3 * MARGIN, 2 * MARGIN, height);
  }
  context.fillStyle = "#202124";
  context.font = FONT;
  const room = canvas.width - 2 * MARGIN;
  context.fillText(map?.title ?? `${state.answer.label}`, MARGIN, 1.4 * MARGIN, room);
  context.fillStyle = "#5d6470";
  const { model, architecture } = state.about;
  context.fillText(`${state.image.name}: ${model.name} ${model.version}, ${architecture}, vitkit`, MARGIN, height + 3.2 * MARGIN, room);
  canvas.toBlob((blob) => download(blob, `${stem()}.png`));
}

function drawBar(context, map, left, top, height) {
  const bar = document.createElement("canvas");
  paintBar(bar, map.signed);
  context.save();
  context.translate(left, top + height);
  context.rotate(-Math.PI / 2);
  context.imageSmoothingEnabled = true;
  context.drawImage(bar, 0, 0, height, BAR);
  context.restore();
  context.fillStyle = "#202124";
  context.font = FONT;
  numbers(map).forEach((words, i) => {
    context.textBaseline = ["bottom", "middle", "top"][i];
    context.fillText(words, left + BAR + 8, top + height * (1 - i / 2));
  });
  context.textBaseline = "alphabetic";
}

// The map's own values, the image as the model sees it, and what they are.
function saveArrays() {
  const map = shownMap();
  const { bitmap, name } = state.image;
  const about = { file: name, model: state.about.model, label: state.answer.label, map: map?.title ?? null, ...changed() };
  const arrays = { image: bytes(pixelsOf(bitmap), [bitmap.height, bitmap.width, 3]), about: text(JSON.stringify(about)) };
  if (map) arrays.grid = floats(map.values, [map.rows, map.columns]);
  download(new Blob([npz(arrays)], { type: "application/octet-stream" }), `${stem()}.npz`);
}

// What was covered and muted meanwhile; the map is of the whole image and all heads.
function changed() {
  return { covered: cellsOf(state.covered), muted: [...state.muted].join(",") };
}

function pixelsOf(bitmap) {
  const canvas = document.createElement("canvas");
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  return data.filter((_, i) => i % 4 < 3);
}

function stem() {
  const base = state.image.name.replace(/\.[^.]*$/, "").replace(/[^\p{L}\p{N}_.-]+/gu, "_") || "image";
  const map = shownMap();
  return map ? `${base}-${map.name}` : base;
}

function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  say(`${name} is saved`);
}

async function copyLink() {
  const button = byId("copy-link");
  try {
    await navigator.clipboard.writeText(location.href);
  } catch {
    return alert("The browser does not let the page copy; the link is in the address bar.");
  }
  button.textContent = "Copied";
  say("The link is copied");
  setTimeout(() => (button.textContent = "Link"), 2000);
}
