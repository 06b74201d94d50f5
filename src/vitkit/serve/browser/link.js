// The state in the address: whoever opens it sees the same, if they have the image.

import { unitGrid } from "./cover.js";
import { open, openSample } from "./opening.js";
import { on, set, state } from "./state.js";
import { alert } from "./tell.js";

const SMALL = 6000; // bytes of an image that travels in the link itself
let timer = 0;
let expected = null; // an image that a link is about, until it is opened

export function startLink() {
  const parts = ["image", "target", "against", "token", "direction", "layer", "head"];
  on([...parts, "shown", "covered", "muted", "opacity", "smooth"], () => {
    clearTimeout(timer);
    timer = setTimeout(write, 200);
  });
  on(["image"], compare);
  addEventListener("hashchange", read);
}

async function write() {
  if (!state.image) return;
  const { image, shown, token } = state;
  const parts = {
    ...(await imagePart(image)),
    target: state.target === state.answer.label ? "" : state.target,
    against: state.against,
    show: shown.kind === "method" ? shown.name : shown.kind === "lens" ? `lens.${shown.block}` : "token",
    at: typeof token === "string" ? token : `${token.down.toFixed(4)},${token.across.toFixed(4)}`,
    to: state.direction,
    layer: state.layer,
    head: state.head,
    opacity: Math.round(100 * state.opacity),
    raw: state.smooth ? "" : 1,
    cover: [...state.covered].join(","),
    mute: [...state.muted].join(","),
  };
  const given = Object.entries(parts).filter(([, value]) => value !== "" && value !== null);
  history.replaceState(null, "", `#${new URLSearchParams(given)}`);
}

// How a link says which image it is about: a sample, the image itself, or its name and print.
async function imagePart({ sample, file, name, print }) {
  if (sample !== null) return { sample };
  if (file.size > SMALL) return { image: print, name };
  const codes = new Uint8Array(await file.arrayBuffer());
  return { name, png: btoa(String.fromCharCode(...codes)).replaceAll("+", "-").replaceAll("/", "_") };
}

// Do as the address says; called once the model is known.
export async function read() {
  const said = new URLSearchParams(location.hash.slice(1));
  if (![...said.keys()].length) return;
  const changes = changesOf(said);
  const sample = Number(said.get("sample") ?? -1);
  const name = said.get("name") || "image";
  if (state.about.samples[sample]) return openSample(sample, { changes });
  if (said.has("sample")) return alert(`This link is about sample ${said.get("sample")}, which is not offered here.`);
  if (said.has("png")) return open(fromText(said.get("png")), { name, fitted: true, changes });
  if (said.has("image")) {
    expected = { print: said.get("image"), name, changes };
    alert(`This link is about ${name}, which stays with whoever has it. Drop that image to see the same.`);
  }
}

function fromText(text) {
  let codes = "";
  try {
    codes = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  } catch {
    // what is no base64 is no image either, as the server will say
  }
  return new Blob([Uint8Array.from(codes, (character) => character.charCodeAt(0))], { type: "image/png" });
}

// Parts of the state that a link sets, as far as they make sense for this model.
function changesOf(said) {
  const { classes, layers, methods } = state.about;
  const changes = {};
  const target = said.get("target");
  if (classes.includes(target)) changes.target = target;
  if (classes.includes(said.get("against"))) changes.against = said.get("against");
  const number = (name, low, high) => {
    const value = Number(said.get(name) ?? NaN);
    return Number.isInteger(value) && value >= low && value <= high ? value : null;
  };
  const layer = number("layer", 0, layers.length - 1);
  if (layer !== null) {
    changes.layer = layer;
    changes.head = number("head", -1, layers[layer].heads - 1) ?? -1;
  }
  if (["looks", "seen"].includes(said.get("to"))) changes.direction = said.get("to");
  const token = tokenOf(said.get("at") ?? "", layers);
  if (token) changes.token = token;
  const show = said.get("show") ?? "";
  const block = /^lens\.(\d+)$/.exec(show);
  if (block && Number(block[1]) < layers.length) changes.shown = { kind: "lens", block: Number(block[1]) };
  else if (show === "token" && layers.length) changes.shown = { kind: "attention" };
  else if (methods.some(({ name }) => name === show)) changes.shown = { kind: "method", name: show };
  const opacity = number("opacity", 0, 100);
  if (opacity !== null) changes.opacity = opacity / 100;
  changes.smooth = said.get("raw") !== "1";
  const [rows, columns] = unitGrid();
  changes.covered = pairs(said.get("cover"), (row, column) => row < rows && column < columns);
  changes.muted = pairs(said.get("mute"), (layer, head) => head < layers[layer]?.heads);
  return changes;
}

function tokenOf(text, layers) {
  if (layers[0]?.prefix.includes(text)) return text;
  const [down, across] = text.split(",").map(Number);
  const inside = (share) => share >= 0 && share < 1;
  return inside(down) && inside(across) ? { down, across } : null;
}

// Pairs of whole numbers, such as 1.2,3.4, as far as there are such.
function pairs(text, exists) {
  const written = (text ?? "").split(",").filter((pair) => /^\d{1,4}\.\d{1,4}$/.test(pair));
  return new Set(written.filter((pair) => exists(...pair.split(".").map(Number))));
}

// Once an image is opened that a link asked for, do the rest of what it said.
function compare() {
  if (!expected || !state.image) return;
  const { print, name, changes } = expected;
  expected = null;
  if (state.image.print === print) set(changes);
  else alert(`This is another image than ${name}, which the link is about.`);
}
