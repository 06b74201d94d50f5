// What the model says without some patches or heads.

import { barOf } from "./answer.js";
import { cellsOf } from "./cover.js";
import { giveUp, post } from "./server.js";
import { on, set, state } from "./state.js";
import { say, trying } from "./tell.js";
import { byId, counted, element, percent, points } from "./words.js";

const SHOWN = 6; // classes

export function startWithout() {
  on(["covered", "muted", "image"], ask);
  on(["effect", "covered", "muted"], show);
  byId("restore").addEventListener("click", () => set({ covered: new Set(), muted: new Set() }));
}

async function ask() {
  if (!state.image) return;
  if (!state.covered.size && !state.muted.size) {
    giveUp("ablate");
    return set({ effect: null });
  }
  const cells = cellsOf(state.covered).map((pair) => pair.join(".")).join(",");
  const heads = [...state.muted].join(",");
  const { file } = state.image;
  const found = await trying(() => post("ablate", "/ablate", file, { cells, heads, fitted: true }));
  if (!found || file !== state.image.file) return;
  set({ effect: found.classes });
  const best = found.classes.reduce((a, b) => (b.without > a.without ? b : a));
  say(`Without: ${best.label}, ${percent(best.without)}`);
}

function show() {
  const { covered, muted, effect } = state;
  const some = covered.size + muted.size > 0;
  const parts = [
    covered.size && `${counted(covered.size, "patch", "patches")} covered`,
    muted.size && `${counted(muted.size, "head")} muted`,
  ].filter(Boolean);
  byId("without-what").textContent = parts.join(", ");
  byId("without-hint").hidden = some;
  byId("restore").hidden = !some;
  byId("without-table").hidden = !effect;
  if (effect) byId("without-rows").replaceChildren(...effect.slice(0, SHOWN).map(changeRow));
}

function changeRow({ label, score, without }) {
  const bars = element("span", { class: "pair", "aria-hidden": "true" }, barOf(score, "before"), barOf(without));
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, label),
    element("td", { class: "n" }, percent(score)),
    element("td", { class: "n" }, percent(without)),
    element("td", { class: "change" }, bars, element("span", { class: "n" }, points(without - score))),
  );
}
