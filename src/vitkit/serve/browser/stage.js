// The image with its map, where patches are picked and covered.

import { drawCovered, unitAt, unitBox, unitGrid } from "./cover.js";
import { numbers, paint, paintBar } from "./draw.js";
import { shownMap } from "./maps.js";
import { on, set, state } from "./state.js";
import { say } from "./tell.js";
import { byId, choosable, choose } from "./words.js";

const canvas = byId("image");
let cursor = null; // {row, column} under the pointer or moved by keys
let painting = null; // while patches are covered in one stroke: whether they are covered or freed

export function startStage() {
  new ResizeObserver(draw).observe(canvas);
  on(["image", "maps", "layers", "blocks", "shown", "layer", "head", "direction"], tellMap);
  on(["image", "maps", "layers", "blocks", "shown", "layer", "head", "direction", "opacity", "smooth", "covered", "tool", "token"], draw);
  startPointer();
  canvas.addEventListener("keydown", byKey);
  canvas.addEventListener("blur", () => moveTo(null));
  startControls();
}

function startControls() {
  const opacity = byId("opacity");
  const smooth = byId("smooth");
  opacity.addEventListener("input", () => set({ opacity: opacity.value / 100 }));
  smooth.addEventListener("change", () => set({ smooth: smooth.checked }));
  const look = byId("tool-look");
  const cover = byId("tool-cover");
  look.addEventListener("click", () => set({ tool: "look" }));
  cover.addEventListener("click", () => set({ tool: "cover" }));
  choosable(look.parentElement);
  const show = () => {
    opacity.value = Math.round(100 * state.opacity);
    smooth.checked = state.smooth;
    choose([look, cover], state.tool === "look" ? look : cover);
    look.disabled = !state.about?.layers.length;
  };
  on(["opacity", "smooth", "tool", "about"], show);
  show();
}

// Whether a click covers; else it looks from the cells of the layer that is shown.
const covers = () => state.tool === "cover";

// The cells that the tool works on.
function grid() {
  return covers() ? unitGrid() : state.about.layers[state.layer].grid;
}

function startPointer() {
  canvas.addEventListener("pointermove", (event) => {
    const at = cellAt(event);
    moveTo(at);
    if (painting !== null && at) coverCell(at, painting);
  });
  canvas.addEventListener("pointerleave", () => moveTo(null));
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button || !covers() || event.pointerType === "touch") return; // touch may be a scroll
    const at = cellAt(event);
    if (!at) return;
    painting = !state.covered.has(`${at.row}.${at.column}`);
    coverCell(at, painting);
  });
  addEventListener("pointerup", () => (painting = null));
  addEventListener("pointercancel", () => (painting = null));
  canvas.addEventListener("click", (event) => {
    const at = cellAt(event);
    if (!at) return;
    if (!covers()) lookFrom(at);
    else if (event.pointerType === "touch" || !event.pointerType) toggle(at);
  });
}

function cellAt(event) {
  const box = canvas.getBoundingClientRect();
  const down = (event.clientY - box.top) / box.height;
  const across = (event.clientX - box.left) / box.width;
  if (down < 0 || down >= 1 || across < 0 || across >= 1) return null;
  if (covers()) return unitAt(down, across);
  const [rows, columns] = grid();
  return { row: Math.floor(down * rows), column: Math.floor(across * columns) };
}

function moveTo(at) {
  if (at?.row === cursor?.row && at?.column === cursor?.column) return;
  cursor = at;
  draw();
}

function lookFrom({ row, column }) {
  const [rows, columns] = grid();
  const token = { down: (row + 0.5) / rows, across: (column + 0.5) / columns };
  set({ token, shown: { kind: "attention" } });
}

function toggle(at) {
  coverCell(at, !state.covered.has(`${at.row}.${at.column}`));
}

function coverCell({ row, column }, cover) {
  const name = `${row}.${column}`;
  if (state.covered.has(name) === cover) return;
  const covered = new Set(state.covered);
  if (cover) covered.add(name);
  else covered.delete(name);
  set({ covered });
}

function byKey(event) {
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const [rows, columns] = grid();
  const at = cursor ?? { row: Math.floor(rows / 2), column: Math.floor(columns / 2) };
  const step = steps[event.key];
  if (step) {
    const clamp = (value, sides) => Math.min(Math.max(value, 0), sides - 1);
    const next = cursor ? { row: clamp(at.row + step[0], rows), column: clamp(at.column + step[1], columns) } : at;
    moveTo(next);
    const covered = covers() && state.covered.has(`${next.row}.${next.column}`);
    say(`row ${next.row}, column ${next.column}${covered ? ", covered" : ""}`);
  } else if (event.key === "Enter" || event.key === " ") {
    moveTo(at);
    if (covers()) toggle(at);
    else lookFrom(at);
  } else {
    return;
  }
  event.preventDefault();
}

// Say what the map is: its title, its bar, and a line about it.
function tellMap() {
  const map = shownMap();
  byId("map-title").textContent = map?.title ?? (state.image ? "What the model sees" : "");
  byId("map-note").textContent = map?.note ?? "";
  byId("map-bar").hidden = !map;
  canvas.setAttribute(
    "aria-label",
    `${state.image?.name ?? "image"}. ${map ? `${map.title}. ${map.note}` : ""} Arrow keys move over patches, Enter chooses.`,
  );
  if (!map) return;
  const [bar, ...ends] = byId("map-bar").children;
  paintBar(bar, map.signed);
  numbers(map).forEach((text, i) => (ends[i].textContent = text));
}

function draw() {
  if (!state.image) return;
  const { bitmap } = state.image;
  canvas.style.aspectRatio = `${bitmap.width} / ${bitmap.height}`;
  canvas.parentElement.style.setProperty("--proportion", bitmap.width / bitmap.height);
  const ratio = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((side) => Math.round(side * ratio));
  if (!width) return;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  paint(context, state.image, shownMap(), { width, height, opacity: state.opacity, smooth: state.smooth });
  drawCovered(context, width, height);
  outlineToken(context, width, height, ratio);
  if (!cursor) return;
  const { row, column } = cursor;
  const box = covers() ? unitBox(row, column, width, height) : cellBox(cursor, grid(), width, height);
  outline(context, box, ratio);
}

function outlineToken(context, width, height, ratio) {
  const layer = state.layers?.[state.layer];
  if (!layer || state.shown.kind !== "attention" || layer.token < layer.prefix.length) return;
  const cell = layer.token - layer.prefix.length;
  const [, columns] = layer.grid;
  const at = { row: Math.floor(cell / columns), column: cell % columns };
  outline(context, cellBox(at, layer.grid, width, height), ratio, true);
}

function cellBox({ row, column }, [rows, columns], width, height) {
  return [(column * width) / columns, (row * height) / rows, width / columns, height / rows];
}

// A white line in a dark one, that stands out from any colours.
function outline(context, [left, top, width, height], ratio, strong = false) {
  for (const [colour, line] of [["rgb(0 0 0 / .75)", strong ? 5 : 3], ["#fff", strong ? 2.5 : 1]]) {
    context.strokeStyle = colour;
    context.lineWidth = line * ratio;
    context.strokeRect(left, top, width, height);
  }
}
