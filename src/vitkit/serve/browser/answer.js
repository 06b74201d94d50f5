// What the model calls the image, and which class maps are for.

import { enlarged, paint } from "./draw.js";
import { on, set, state } from "./state.js";
import { alert } from "./tell.js";
import { byId, element, percent } from "./words.js";

const PLAIN = 128; // pixels of the image, at least

export function startAnswer() {
  on(["about"], () => {
    byId("class-names").replaceChildren(...state.about.classes.map((value) => element("option", { value })));
  });
  on(["answer"], show);
  on(["answer", "target"], mark);
  on(["target", "against"], showPickers);
  startPicker("target", () => state.answer?.label ?? "");
  startPicker("against", () => "");
}

function show() {
  if (!state.answer) return;
  const { label, score, topk } = state.answer;
  byId("answer-share").textContent = percent(score);
  byId("answer-label").textContent = label;
  document.title = `${label} · vitkit`;
  paintPlain(state.image);
  byId("answer-rows").replaceChildren(...topk.map((each) => classRow(each)));
}

// The image without any map.
function paintPlain(image) {
  const canvas = byId("plain");
  const size = enlarged(image.bitmap, PLAIN);
  Object.assign(canvas, size);
  paint(canvas.getContext("2d"), image, null, size);
}

// Which of the classes maps are for.
function mark() {
  for (const button of byId("answer-rows").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", button.textContent === state.target);
  }
}

function classRow({ label, score }) {
  const pick = element(
    "button",
    { type: "button", title: `Maps for ${label}`, onclick: () => set({ target: label, against: state.against === label ? "" : state.against }) },
    label,
  );
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, pick),
    element("td", { class: "n" }, percent(score)),
    element("td", { class: "wide" }, barOf(score)),
  );
}

// A share as a bar.
export function barOf(share, kind = "") {
  const fill = element("i", { class: kind });
  fill.style.width = `${100 * share}%`;
  return element("span", { class: "share", "aria-hidden": "true" }, fill);
}

// A field that takes the name of a class, or nothing for what `otherwise` says.
function startPicker(name, otherwise) {
  const field = byId(name);
  field.addEventListener("change", () => {
    const value = field.value.trim() || otherwise();
    const other = name === "target" ? state.against : state.target;
    if (value && !state.about.classes.includes(value)) {
      alert(`The model knows no class “${value}”; choose one from the list.`);
    } else if (value && value === other) {
      alert(`“${value}” cannot be held against itself; choose another class.`);
    } else {
      alert("");
      set({ [name]: value });
    }
    showPickers();
  });
  field.addEventListener("focus", () => field.select());
}

function showPickers() {
  byId("target").value = state.target;
  byId("against").value = state.against;
}
