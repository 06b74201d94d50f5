// What is served: asked for once, and again if that failed.

import { useColours } from "./draw.js";
import { get } from "./server.js";
import { set, state } from "./state.js";

let asking = null;

export function know() {
  asking ??= ask().catch((error) => {
    asking = null;
    throw error;
  });
  return asking;
}

async function ask() {
  const about = await get("/about");
  useColours(about.colours);
  const layer = Math.max(about.layers.length - 1, 0);
  const token = about.layers[0]?.prefix[0] ?? { down: 0.5, across: 0.5 };
  const tool = about.layers.length ? "look" : "cover";
  set({ about, layer, token, tool, shown: { ...state.shown, name: about.default_method } });
}
