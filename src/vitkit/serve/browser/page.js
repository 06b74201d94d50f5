// The page: who starts, in which order.

import { startAnswer } from "./answer.js";
import { startAttention } from "./attention.js";
import { startLens } from "./lens.js";
import { read, startLink } from "./link.js";
import { know } from "./model.js";
import { startMethods } from "./methods.js";
import { showSamples, startOpening } from "./opening.js";
import { startPositions } from "./positions.js";
import { startSaving } from "./save.js";
import { startStage } from "./stage.js";
import { on, state } from "./state.js";
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
  on(["about"], showSamples);
  await trying(know);
  if (state.about) await read();
}

start();
