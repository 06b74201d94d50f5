// What the model knows of places, once somebody wants to see it.

import { get } from "./server.js";
import { onSeen } from "./seen.js";
import { trying } from "./tell.js";
import { byId, element } from "./words.js";

const section = byId("positions");
let asked = false;

export function startPositions() {
  onSeen(section, ask);
}

async function ask() {
  if (asked) return;
  asked = true;
  const found = await trying(() => get("/positions"));
  if (!found) return (asked = false);
  byId("positions-about").textContent = words(found);
  byId("mosaics").replaceChildren(...found.pictures.map((each) => mosaic(each, found)));
}

function words({ kind, why, learned, grid, score, every, shuffled_std: chance }) {
  if (kind === "none") return `${why}.`;
  if (kind === "biases") {
    return "What each head adds to its scores by how far away a token is: the middle of a map is the token itself.";
  }
  const which = every > 1 ? `one patch in each ${every} rows and columns` : "one patch";
  const made = learned ? "learned" : "given, not learned";
  return (
    `Each small map is of ${which}, where it lies in the image: how alike its position embedding (${made}) ` +
    `is to those of all ${grid[0]} × ${grid[1]} patches. Likeness follows distance with ${score.toFixed(2)}, ` +
    `where 1 is always and shuffled tables have 0 ± ${chance.toFixed(2)}. On 14 × 14 patches, sinusoids in two ` +
    "dimensions have 0.84, in one 0.63."
  );
}

function mosaic({ name, png }, { kind }) {
  const alone = kind === "embeddings";
  const picture = element("img", {
    src: `data:image/png;base64,${png}`,
    alt: alone ? "Similarity of position embeddings, a map for each patch" : `Position biases of ${name}, a map for each head`,
  });
  return element("figure", { class: alone ? "whole" : "" }, picture, element("figcaption", {}, alone ? "" : name));
}
