// Attention around one token: which token, which way, and a wall of all layers and heads.

import { toCanvas } from "./draw.js";
import { attentionMap, shownMap } from "./maps.js";
import { post } from "./server.js";
import { on, set, state } from "./state.js";
import { say, trying } from "./tell.js";
import { byId, choosable, choose, element } from "./words.js";

const wall = byId("wall");

export function startAttention() {
  on(["about"], build);
  on(["image", "token"], ask);
  on(["layers", "direction"], drawWall);
  on(["layers", "direction", "layer", "head", "muted", "shown"], mark);
  on(["layers"], () => state.shown.kind === "attention" && say(`${shownMap()?.title}. ${shownMap()?.note}`));
  for (const direction of ["looks", "seen"]) {
    byId(`to-${direction}`).addEventListener("click", () => set({ direction, shown: { kind: "attention" } }));
  }
  choosable(byId("to-looks").parentElement);
  choosable(byId("tokens"));
  byId("layer").addEventListener("change", (event) => pick(Number(event.target.value), state.head));
  byId("head").addEventListener("change", (event) => pick(state.layer, Number(event.target.value)));
  byId("mute").addEventListener("click", mute);
  wall.addEventListener("keydown", byKey);
}

async function ask() {
  if (!state.image || !state.about.layers.length) return;
  const { image, token } = state;
  const where = typeof token === "string" ? { token } : token;
  const found = await trying(() => post("attention", "/attention", image.file, { ...where, fitted: true }));
  if (found && image === state.image && token === state.token) set({ layers: found.layers.map(decode) });
}

function decode(layer) {
  const unpack = ({ most, data }) => ({ most, data: Uint8Array.from(atob(data), (c) => c.charCodeAt(0)) });
  return { ...layer, looks: unpack(layer.looks), seen: unpack(layer.seen) };
}

// Everything that depends on the model alone.
function build() {
  const { layers } = state.about;
  byId("attention").hidden = !layers.length;
  if (!layers.length) return;
  const names = layers[0].prefix;
  byId("tokens").hidden = !names.length;
  byId("tokens").replaceChildren(
    ...names.map((name) => {
      const choice = () => set({ token: name, shown: { kind: "attention" } });
      return element("button", { type: "button", role: "radio", "data-token": name, onclick: choice }, name);
    }),
    element("button", { type: "button", role: "radio", "data-token": "", disabled: true }, "a patch"),
  );
  byId("layer").replaceChildren(...layers.map((_, i) => element("option", { value: i }, String(i))));
  buildWall(layers);
}

function buildWall(layers) {
  const most = Math.max(...layers.map(({ heads }) => heads));
  wall.style.setProperty("--heads", Math.min(most, 12));
  wall.replaceChildren(
    ...layers.map(({ heads }, layer) =>
      element(
        "div",
        { class: "heads", role: "group", "aria-label": `Layer ${layer}` },
        element("span", { class: "number", "aria-hidden": "true" }, String(layer)),
        ...Array.from({ length: heads + 1 }, (_, i) => thumb(layer, i - 1)),
      ),
    ),
  );
}

function thumb(layer, head) {
  const label = `Layer ${layer}, ${head < 0 ? "mean of all heads" : `head ${head}`}`;
  const attributes = { type: "button", class: head < 0 ? "thumb mean" : "thumb", tabindex: -1 };
  const data = { "data-layer": layer, "data-head": head, "aria-label": label, title: label };
  return element("button", { ...attributes, ...data, onclick: () => pick(layer, head) }, element("canvas"));
}

function thumbOf(layer, head) {
  return wall.querySelector(`[data-layer="${layer}"][data-head="${head}"]`);
}

// Show a head; layers may differ in how many they have.
function pick(layer, head) {
  const known = Math.min(head, state.about.layers[layer].heads - 1);
  set({ layer, head: known, shown: { kind: "attention" } });
  say(shownMap()?.title ?? "");
}

function drawWall() {
  if (!state.layers) return;
  state.layers.forEach((layer, number) => {
    for (let head = -1; head < layer.heads; head++) {
      toCanvas(attentionMap(layer, state.direction, head), thumbOf(number, head).firstChild);
    }
  });
}

// What is chosen, in all the controls.
function mark() {
  if (!state.about?.layers.length) return;
  const { layer, head, direction, muted, token } = state;
  wall.querySelectorAll("[aria-current]").forEach((old) => {
    old.removeAttribute("aria-current");
    old.tabIndex = -1;
  });
  const current = thumbOf(layer, head);
  current.setAttribute("aria-current", "true");
  current.tabIndex = 0;
  wall.querySelectorAll(".thumb").forEach((each) => {
    each.classList.toggle("muted", muted.has(`${each.dataset.layer}.${each.dataset.head}`));
  });
  const { heads } = state.about.layers[layer];
  const options = Array.from({ length: heads }, (_, i) => element("option", { value: i }, String(i)));
  byId("head").replaceChildren(element("option", { value: -1 }, "mean"), ...options);
  byId("layer").value = layer;
  byId("head").value = head;
  const chosen = typeof token === "string" ? token : "";
  const buttons = [...byId("tokens").children];
  choose(buttons, buttons.find((button) => button.dataset.token === chosen));
  choose([byId("to-looks"), byId("to-seen")], byId(`to-${direction}`));
  byId("mute").disabled = head < 0;
  const isMuted = muted.has(`${layer}.${head}`);
  byId("mute").setAttribute("aria-pressed", isMuted);
  byId("mute").textContent = isMuted ? "Unmute this head" : "Mute this head";
}

function mute() {
  const name = `${state.layer}.${state.head}`;
  const muted = new Set(state.muted);
  if (!muted.delete(name)) muted.add(name);
  set({ muted });
}

// Arrow keys move over the wall.
function byKey(event) {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (!step) return;
  event.preventDefault();
  const { layers } = state.about;
  const layer = Math.min(Math.max(state.layer + step[0], 0), layers.length - 1);
  pick(layer, Math.min(Math.max(state.head + step[1], -1), layers[layer].heads - 1));
  thumbOf(state.layer, state.head).focus();
}
