// The map that is shown over the image, whatever it comes from.

import { state } from "./state.js";
import { percent } from "./words.js";

// What is to be shown: {rows, columns, values, signed, title, note}, or null.
export function shownMap() {
  const { kind, name, block } = state.shown;
  if (kind === "method") return state.maps[name] ?? null;
  if (kind === "lens") return state.blocks?.[block]?.map ?? null;
  return state.layers && attentionMap(state.layers[state.layer], state.direction, state.head);
}

// Numbers of a head, or of the mean of all: its weights from or to the token, (T).
function weights(layer, direction, head) {
  const { data, most } = layer[direction];
  const tokens = data.length / layer.heads;
  const heads = head < 0 ? most.map((_, i) => i) : [head];
  const sums = new Float32Array(tokens);
  for (const i of heads) {
    const scale = most[i] / 255 / heads.length;
    for (let token = 0; token < tokens; token++) sums[token] += scale * data[i * tokens + token];
  }
  return sums;
}

export function attentionMap(layer, direction, head) {
  const all = weights(layer, direction, head);
  const prefix = layer.prefix.length;
  const [rows, columns] = layer.grid;
  const values = all.subarray(prefix);
  const number = state.layers.indexOf(layer);
  const who = tokenName(layer);
  const does = direction === "looks" ? `where ${who} looks` : `what looks at ${who}`;
  const of = head < 0 ? "mean of all heads" : `head ${head}`;
  return {
    ...{ rows, columns, values, signed: false },
    title: `Layer ${number}, ${of}: ${does}`,
    note: noteOf(layer, direction, all),
    name: `attention-layer${number}-${head < 0 ? "mean" : `head${head}`}-${direction}`,
  };
}

// Where most of the weight goes, and how much of it to tokens that have no place.
function noteOf(layer, direction, all) {
  const prefix = layer.prefix.length;
  let best = prefix;
  for (let i = prefix; i < all.length; i++) if (all[i] > all[best]) best = i;
  const place = `${placeOf(layer, best - prefix)}`;
  if (direction === "seen") return `Most from ${place}, which gives it ${percent(all[best])} of its attention.`;
  const beside = layer.prefix.map((name, i) => `${percent(all[i])} to ${name}`);
  return [`${percent(all[best])} goes to ${place}, the most of any patch`, ...beside].join("; ") + ".";
}

function placeOf(layer, cell) {
  const columns = layer.grid[1];
  return `row ${Math.floor(cell / columns)}, column ${cell % columns}`;
}

function tokenName(layer) {
  const prefix = layer.prefix.length;
  return layer.token < prefix ? layer.prefix[layer.token] : placeOf(layer, layer.token - prefix);
}
