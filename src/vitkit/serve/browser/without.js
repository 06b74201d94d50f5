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
  byId("restore").addEventListener("click", () => {
    set({ covered: new Set(), muted: new Set() });
    byId("without-title").focus({ preventScroll: true }); // the button is gone
  });
}

async function ask() {
  if (!state.image) return;
  if (!state.covered.size && !state.muted.size) {
    giveUp("ablate");
    return set({ effect: null });
  }
  const { covered, muted, image } = state;
  const heads = [...muted].join(",");
  const query = { cells: cellsOf(covered), heads, topk: SHOWN, fitted: true };
  const found = await trying(() => post("ablate", "/ablate", image.file, query));
  if (!found || image !== state.image || covered !== state.covered || muted !== state.muted) return;
  set({ effect: found.classes });
  say(`Without: ${found.label}, ${percent(found.score)}`);
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
  byId("without-row").hidden = !some;
  byId("without-table").hidden = !effect;
  if (effect) byId("without-rows").replaceChildren(...effect.map(changeRow));
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
