// The page: who starts, in which order.

import { startAnswer } from "./answer.js";
import { startAttention } from "./attention.js";
import { useColours } from "./draw.js";
import { startLens } from "./lens.js";
import { read, startLink } from "./link.js";
import { startMethods } from "./methods.js";
import { showSamples, startOpening } from "./opening.js";
import { startPositions } from "./positions.js";
import { startSaving } from "./save.js";
import { get } from "./server.js";
import { startStage } from "./stage.js";
import { on, set, state } from "./state.js";
import { trying } from "./tell.js";
import { startWithout } from "./without.js";
import { byId, counted, short } from "./words.js";

function showModel() {
  const { model, architecture, parameters, classes, image_size: size } = state.about;
  byId("model-name").textContent = model.name;
  const [height, width] = size;
  byId("model-about").textContent = [
    architecture,
    `${short(parameters)} parameters`,
    counted(classes.length, "class", "classes"),
    `${width} × ${height} pixels`,
  ].join(" · ");
  byId("version").textContent = `${model.name}, version ${model.version}.`;
  document.title = `${model.name} · vitkit`;
}

function showMain() {
  byId("welcome").hidden = state.image !== null;
  byId("main").hidden = state.image === null;
}

async function start() {
  on(["about"], showModel);
  on(["image"], showMain);
  for (const begin of [startStage, startAnswer, startAttention, startMethods, startWithout, startLens, startPositions, startSaving, startOpening, startLink]) {
    begin();
  }
  const about = await trying(() => get("/about"));
  if (!about) return;
  useColours(about.colours);
  const layer = Math.max(about.layers.length - 1, 0);
  const token = about.layers[0]?.prefix[0] ?? { down: 0.5, across: 0.5 };
  set({ about, layer, token, tool: about.layers.length ? "look" : "cover" });
  showSamples();
  await read();
}

start();
