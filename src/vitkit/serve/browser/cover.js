// Units of cells that are covered at a click: a cell of four pixels would be too small to matter.

import { state } from "./state.js";

const ACROSS = 14; // units along the longer side, about

// Cells that a unit is wide.
function side() {
  const longer = Math.max(...state.about.image_size);
  return Math.max(Math.round(longer / ACROSS / state.about.cell), 1);
}

// Cells down and across that the model takes.
function cells() {
  return state.about.image_size.map((pixels) => Math.ceil(pixels / state.about.cell));
}

// Units down and across; the last ones may be smaller.
export function unitGrid() {
  return cells().map((count) => Math.ceil(count / side()));
}

// Where a unit lies in a picture of the image of some width and height: [left, top, width, height].
export function unitBox(row, column, width, height) {
  const [down, across] = state.about.image_size;
  const pixels = side() * state.about.cell;
  const at = (number, whole, length) => Math.min((number * pixels) / whole, 1) * length;
  const [left, top] = [at(column, across, width), at(row, down, height)];
  return [left, top, at(column + 1, across, width) - left, at(row + 1, down, height) - top];
}

// Draw covered patches as the model sees them: filled with the mean colour.
export function drawCovered(context, width, height) {
  const { mean } = state.about;
  const [r, g, b] = [0, 1, 2].map((i) => Math.round(255 * (mean[i] ?? mean[0])));
  context.fillStyle = `rgb(${r} ${g} ${b})`;
  for (const unit of state.covered) {
    const [left, top, wide, high] = unitBox(...unit.split(".").map(Number), width, height);
    context.fillRect(left, top, wide + 0.5, high + 0.5);
  }
}

// The unit at a place that is given as shares of the image.
export function unitAt(down, across) {
  const [height, width] = state.about.image_size;
  const pixels = side() * state.about.cell;
  return { row: Math.floor((down * height) / pixels), column: Math.floor((across * width) / pixels) };
}

// The cells of some units, as /ablate takes them: rectangles from corner to corner.
export function cellsOf(units) {
  const [rows, columns] = cells();
  const rectangles = [...units].map((unit) => {
    const [top, left] = unit.split(".").map((n) => n * side());
    const [bottom, right] = [Math.min(top + side(), rows) - 1, Math.min(left + side(), columns) - 1];
    return `${top}.${left}:${bottom}.${right}`;
  });
  return rectangles.join(",");
}
