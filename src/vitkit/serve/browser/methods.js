// Methods side by side, each a map of what speaks for a class.

import { enlarged, paint } from "./draw.js";
import { giveUp, post, wasGivenUp } from "./server.js";
import { isSeen, onSeen } from "./seen.js";
import { named, on, set, state } from "./state.js";
import { tell } from "./tell.js";
import { byId, element, percent } from "./words.js";

const section = byId("methods");
const SIDE = 224; // pixels of a map, at least
let filling = false;

export function startMethods() {
  on(["about"], build);
  on(["image", "target", "against"], drop);
  on(["image", "target", "against", "shown"], fill);
  on(["maps", "opacity", "smooth", "shown"], draw);
  onSeen(section, fill);
}

// The methods, the control beside the first, and those that take long last.
function sorted() {
  const { methods, control, default_method: first } = state.about;
  const order = (method) => (method.name === first ? 0 : method.name === control ? 1 : method.costly ? 3 : 2);
  return [...methods].sort((a, b) => order(a) - order(b));
}

function build() {
  byId("method-tiles").replaceChildren(...sorted().map(tile));
}

function tile(method) {
  const { name, about, source, costly } = method;
  const control = name === state.about.control;
  const words = control ? `${name}, the control` : name.replaceAll("_", " ");
  const show = () => {
    set({ shown: { kind: "method", name } });
    want(name);
  };
  const picture = element("button", { type: "button", class: "picture", "aria-label": `Show ${words} on the image`, onclick: show }, element("canvas"));
  if (costly) picture.append(element("span", { class: "run" }, "Run: takes seconds"));
  const paper = source.startsWith("arXiv:") ? source.split(",")[0] : "";
  const link = paper && element("a", { href: `https://arxiv.org/abs/${paper.slice(6)}`, rel: "noreferrer", target: "_blank" }, paper);
  return element(
    "figure",
    { "data-method": name, class: control ? "control" : "" },
    picture,
    element("figcaption", {}, element("b", {}, words), element("span", {}, about, " ", link || "")),
  );
}

// Maps that are for another class or image are of no use any more.
function drop() {
  byId("methods-target").textContent = state.target;
  byId("methods-against").textContent = state.against ? ` and not for ${state.against}` : "";
  const kept = Object.entries(state.maps).filter(([, map]) => map.image === state.image && map.asked === asked(map.method));
  if (kept.length < Object.keys(state.maps).length) set({ maps: Object.fromEntries(kept) });
  wanted.clear();
  failed.clear();
  giveUp("explain");
}

// What a map depends on besides the image.
function asked(method) {
  return method.for_class ? JSON.stringify([state.target, state.against]) : "";
}

const wanted = new Set(); // costly methods that were asked for
const failed = new Set(); // those that are not tried again by themselves

function want(name) {
  wanted.add(name);
  failed.delete(name);
  fill();
}

// The next method whose map is missing: what is on the image first, costly ones only on request.
function next() {
  const shows = ({ name }) => state.shown.kind === "method" && state.shown.name === name;
  const missing = sorted().filter(({ name }) => !state.maps[name] && !failed.has(name));
  const requested = missing.filter(({ name }) => wanted.has(name));
  const seen = isSeen(section) ? missing.filter(({ costly }) => !costly) : [];
  return missing.find(shows) ?? seen[0] ?? requested[0];
}

// Ask for maps one after the other, until none is missing.
async function fill() {
  if (filling || !state.image) return;
  filling = true;
  try {
    for (let method = next(); method; method = next()) {
      draw(method.name);
      await explain(method);
    }
  } finally {
    filling = false;
    draw();
  }
}

async function explain(method) {
  const { image, target, against } = state;
  const query = { method: method.name, target: named(target), against, fitted: true };
  let found;
  try {
    found = await post("explain", "/explain", image.file, query);
  } catch (error) {
    if (wasGivenUp(error)) return;
    failed.add(method.name);
    tell(error);
    return;
  }
  const current = image === state.image && (!method.for_class || (target === state.target && against === state.against));
  if (current) set({ maps: { ...state.maps, [method.name]: toMap(found, method, image) } });
}

function toMap(found, method, image) {
  const than = found.against ? ` and not for ${found.against}` : "";
  const of = method.for_class ? `what speaks for ${found.target}${than}` : "for any class";
  return {
    rows: found.grid.length,
    columns: found.grid[0].length,
    values: Float32Array.from(found.grid.flat()),
    signed: found.signed,
    title: `${method.name.replaceAll("_", " ")}: ${of}`,
    note: method.for_class ? `${method.about} The model gives ${found.target} ${percent(found.score)}.` : method.about,
    name: method.name,
    ...{ method, image, asked: asked(method) },
  };
}

function draw(running = "") {
  if (!state.image) return;
  const { width, height } = enlarged(state.image.bitmap, SIDE);
  for (const figure of byId("method-tiles").children) {
    const { method } = figure.dataset;
    const map = state.maps[method];
    const canvas = figure.querySelector("canvas");
    Object.assign(canvas, { width, height });
    const size = { width, height, opacity: state.opacity, smooth: state.smooth };
    paint(canvas.getContext("2d"), state.image, map, size);
    figure.classList.toggle("waiting", !map);
    figure.classList.toggle("running", method === running);
    figure.classList.toggle("failed", failed.has(method));
    const shown = state.shown.kind === "method" && state.shown.name === method;
    figure.querySelector("button").setAttribute("aria-pressed", shown);
  }
}
