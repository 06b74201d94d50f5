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

// Units down and across.
export function unitGrid() {
  return cells().map((count) => Math.ceil(count / side()));
}

// The cells of some units, as [row, column].
export function cellsOf(units) {
  const [rows, columns] = cells();
  const found = [];
  for (const unit of units) {
    const [down, across] = unit.split(".").map((n) => n * side());
    for (let row = down; row < Math.min(down + side(), rows); row++) {
      for (let column = across; column < Math.min(across + side(), columns); column++) found.push([row, column]);
    }
  }
  return found;
}
