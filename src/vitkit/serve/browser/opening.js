// Ways in: drop, paste, choose, a sample, a link.

import { toGrey } from "./draw.js";
import { know } from "./model.js";
import { getFile, post } from "./server.js";
import { set, state } from "./state.js";
import { alert, say, trying } from "./tell.js";
import { byId, element, percent } from "./words.js";

export function startOpening() {
  byId("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) open(file, { name: file.name });
    event.target.value = ""; // so that the same file can be chosen again
  });
  addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (file) open(file, { name: file.name });
  });
  startDropping();
}

function startDropping() {
  const over = byId("dropping");
  const hasFiles = (event) => [...event.dataTransfer.types].includes("Files");
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    over.hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) over.hidden = true;
  });
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    over.hidden = true;
    const [file] = event.dataTransfer.files;
    if (file) open(file, { name: file.name });
    else alert("What was dropped is no file; save the image first, then drop it.");
  });
}

export function showSamples() {
  for (const [place, small] of [["samples-first", false], ["samples", true]]) {
    const buttons = state.about.samples.map(({ name, label }, number) => {
      const picture = element("img", { alt: "" });
      const words = small ? [] : [element("span", {}, label || name)];
      return element(
        "button",
        { type: "button", title: name, "aria-label": `Sample ${label || name}`, onclick: () => openSample(number) },
        picture,
        ...words,
      );
    });
    byId(place).replaceChildren(...buttons);
  }
  state.about.samples.forEach((_, number) => trying(() => showSample(number)));
}

const files = new Map(); // of samples, as they come

function sampleFile(number) {
  if (!files.has(number)) files.set(number, getFile(`/samples/${number}`));
  files.get(number).catch(() => files.delete(number));
  return files.get(number);
}

async function showSample(number) {
  const address = URL.createObjectURL(await sampleFile(number));
  for (const place of ["samples-first", "samples"]) {
    byId(place).children[number].querySelector("img").src = address;
  }
}

// Open one of the samples, with what a link says of it.
export function openSample(number, wanted = {}) {
  const { name } = state.about.samples[number];
  return open(sampleFile(number), { name, sample: number, ...wanted });
}

function markSample() {
  [...byId("samples").children].forEach((button, number) => {
    button.setAttribute("aria-current", number === state.image.sample);
  });
}

let latest = 0; // images that were asked for

// Open an image file, or one that is to come: what the model sees of it, and what it calls it. A
// `fitted` file is the former; `changes` are parts of the state that go with the image.
export function open(coming, { name, sample = null, fitted = false, changes = {} }) {
  const turn = ++latest;
  document.documentElement.classList.add("busy");
  return trying(async () => {
    await know();
    const file = await coming;
    const most = state.about.megabytes;
    if (file.size > most * 1e6) {
      const size = Math.ceil(file.size / 1e6);
      return alert(`${name} has ${size} MB; the server takes ${most}. Make it smaller first.`);
    }
    const seen = fitted ? file : await post("open", "/view", file, {}, { file: true });
    const answer = await post("open", "/predict", seen, { topk: 5, fitted: true });
    const bitmap = await createImageBitmap(seen);
    const print = fingerprint(new Uint8Array(await seen.arrayBuffer()));
    if (turn !== latest) return;
    const first = state.image === null;
    if (first) scrollTo(0, 0);
    alert("");
    set({
      image: { name, sample, file: seen, print, bitmap, grey: toGrey(bitmap) },
      answer,
      target: answer.label,
      against: "",
      layers: null,
      maps: {},
      blocks: null,
      covered: new Set(),
      muted: new Set(),
      effect: null,
      ...changes,
    });
    say(`${name}: ${answer.label}, ${percent(answer.score)}`);
    markSample();
    if (first) byId("answer-title").focus({ preventScroll: true }); // what was focused is gone
  }).finally(() => turn === latest && document.documentElement.classList.remove("busy"));
}

// A name for some bytes, so that a link can tell whether it means this image (FNV-1a, twice).
function fingerprint(bytes) {
  let one = 0x811c9dc5;
  let two = 0x050c5d1f;
  for (const byte of bytes) {
    one = Math.imul(one ^ byte, 0x01000193);
    two = Math.imul(two ^ byte, 0x01000193) + 1;
  }
  return [one, two].map((n) => (n >>> 0).toString(16).padStart(8, "0")).join("");
}
