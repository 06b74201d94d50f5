// What the head would say after every block.

import { barOf } from "./answer.js";
import { enlarged, paint } from "./draw.js";
import { post } from "./server.js";
import { isSeen, onSeen } from "./seen.js";
import { named, on, set, state } from "./state.js";
import { trying } from "./tell.js";
import { byId, element, percent } from "./words.js";

const section = byId("lens");
const SIDE = 112; // pixels of a map, at least

export function startLens() {
  on(["about"], () => (section.hidden = !state.about.layers.length));
  on(["target"], () => set({ blocks: null }));
  on(["image", "target", "shown"], ask);
  on(["blocks"], show);
  on(["blocks", "opacity", "smooth", "shown"], draw);
  onSeen(section, ask);
}

async function ask() {
  byId("lens-target").textContent = state.target;
  const needed = isSeen(section) || state.shown.kind === "lens";
  if (!needed || !state.image || state.blocks || section.hidden) return;
  const { image, target } = state;
  const found = await trying(() => post("lens", "/lens", image.file, { target: named(target), fitted: true }));
  if (found && image === state.image && target === state.target) set({ blocks: found.blocks.map(toBlock) });
}

function toBlock(block) {
  const number = state.about.layers.findIndex(({ name }) => name === `${block.name}.attn`);
  const map = {
    rows: block.cells.length,
    columns: block.cells[0].length,
    values: Float32Array.from(block.cells.flat()),
    signed: false,
    title: `After block ${number}: where the head would say ${state.target}`,
    note: `Of all it reads it would say ${block.label} (${percent(block.score)}).`,
    name: `lens-block${number}`,
  };
  return { ...block, number, map };
}

function show() {
  byId("steps").replaceChildren(...(state.blocks ?? []).map(step));
}

function step(block, index) {
  const { number } = block;
  const right = block.label === state.target;
  const words = element(
    "span",
    { class: "says" },
    element("b", { class: right ? "right" : "" }, block.label),
    element("span", { class: "n" }, percent(block.score)),
  );
  const label = `Block ${number}: ${block.label}, ${percent(block.score)}. Show its map on the image`;
  const shown = () => set({ shown: { kind: "lens", block: index } });
  return element(
    "button",
    { type: "button", class: "step", "aria-label": label, onclick: shown },
    element("canvas"),
    element("span", { class: "number" }, String(number)),
    words,
    barOf(block.target_score),
  );
}

function draw() {
  if (!state.blocks) return;
  const { width, height } = enlarged(state.image.bitmap, SIDE);
  [...byId("steps").children].forEach((button, number) => {
    const canvas = button.querySelector("canvas");
    Object.assign(canvas, { width, height });
    const size = { width, height, opacity: state.opacity, smooth: state.smooth };
    paint(canvas.getContext("2d"), state.image, state.blocks[number].map, size);
    const shown = state.shown.kind === "lens" && state.shown.block === number;
    button.setAttribute("aria-pressed", shown);
  });
}
