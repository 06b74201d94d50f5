// What is said to whoever looks, and to whoever listens.

import { byId } from "./words.js";
import { Refused, wasGivenUp } from "./server.js";

// A problem, until the next one or until all is well.
export function alert(message) {
  const line = byId("alert");
  line.textContent = message;
  line.hidden = !message;
}

// Something that a screen reader should read out.
export function say(message) {
  byId("said").textContent = message;
}

// Wait for some work; a failure is told, and what was given up is not one.
export async function trying(work) {
  try {
    return await work();
  } catch (error) {
    if (!wasGivenUp(error)) tell(error);
    return undefined;
  }
}

// What went wrong; a mistake of ours is thrown on.
export function tell(error) {
  alert(error.message);
  if (!(error instanceof Refused)) throw error;
}
