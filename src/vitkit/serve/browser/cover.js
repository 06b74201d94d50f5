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

// Where a unit begins and ends, as shares of the image: [top, left, bottom, right].
export function unitBox(row, column) {
  const [height, width] = state.about.image_size;
  const pixels = side() * state.about.cell;
  const share = (at, whole) => Math.min((at * pixels) / whole, 1);
  return [share(row, height), share(column, width), share(row + 1, height), share(column + 1, width)];
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
