// What the page shows: one object, and who wants to know when a part of it changes.

export const state = {
  about: null, // what is served, as /about says
  image: null, // {name, sample, file, print, bitmap, grey}; file is the PNG of what the model sees
  answer: null, // of /predict
  target: "", // the class that maps are for
  against: "", // the class it is held against
  token: "CLS", // a name, or {down, across}
  direction: "looks", // or "seen"
  layer: 0,
  head: -1, // -1: the mean of all heads
  layers: null, // attention around the token, decoded
  maps: {}, // by method
  blocks: null, // of the lens
  shown: { kind: "method", name: "" }, // or {kind: "attention"}, {kind: "lens", block}
  tool: "look", // or "cover"
  covered: new Set(), // "row.column"
  muted: new Set(), // "layer.head"
  effect: null, // of /ablate
  opacity: 0.6,
  smooth: true,
};

// A class as the server is asked for it: the one that it says itself needs no name.
export function named(target) {
  return target === state.answer.label ? "" : target;
}

const listeners = [];

// Call `run` after any of the named parts has changed.
export function on(names, run) {
  listeners.push({ names, run });
}

// Change parts of the state, and tell who listens to one of them.
export function set(changes) {
  const changed = Object.keys(changes).filter((name) => !Object.is(state[name], changes[name]));
  Object.assign(state, changes);
  for (const { names, run } of listeners) {
    if (names.some((name) => changed.includes(name))) run();
  }
}
