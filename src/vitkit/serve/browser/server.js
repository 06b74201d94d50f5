// Requests to the server that sent this page.

const KEY = "vitkit-token";
const running = new Map(); // what is being asked, by what it is for

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// Ask for something; a newer request for the same purpose takes the place of an older one.
async function send(purpose, path, options = {}) {
  running.get(purpose)?.abort();
  const control = new AbortController();
  running.set(purpose, control);
  try {
    for (;;) {
      const token = sessionStorage.getItem(KEY);
      const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
      const answer = await reach(path, { ...options, headers, signal: control.signal });
      if (answer.ok) return answer;
      if (answer.status === 401) {
        await askForToken();
      } else if (answer.status === 429) {
        await pause(1000 * Number(answer.headers.get("Retry-After") || 1), control.signal);
      } else {
        throw new Refused(answer.status, await reason(answer));
      }
    }
  } finally {
    if (running.get(purpose) === control) running.delete(purpose);
  }
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error instanceof TypeError) throw new Refused(0, "The server does not answer; is it still running?");
    throw error;
  }
}

let model = null; // the version that answered first

// Read an answer, which must be of the version that the page knows.
async function read(answer) {
  const said = await answer.json();
  model ??= said.model;
  if (said.model && said.model.version !== model.version) {
    throw new Refused(0, "The server has another model by now; load the page again to look into that one.");
  }
  return said;
}

export async function get(path) {
  return read(await send(path, path));
}

export async function getFile(path) {
  return (await send(path, path)).blob();
}

// Send an image, and read what comes back as JSON, or as a file where `file` says so.
export async function post(purpose, path, image, query = {}, { file = false } = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== undefined);
  const address = given.length ? `${path}?${new URLSearchParams(given)}` : path;
  const headers = { "Content-Type": "application/octet-stream" };
  const answer = await send(purpose, address, { method: "POST", body: image, headers });
  return file ? answer.blob() : read(answer);
}

// Give up what is being asked for a purpose.
export function giveUp(purpose) {
  running.get(purpose)?.abort();
}

export function wasGivenUp(error) {
  return error.name === "AbortError";
}

async function reason(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `the server answered ${answer.status}`;
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

let asking = null; // one dialog for all that wait

function askForToken() {
  asking ??= new Promise((resolve, reject) => {
    const dialog = document.getElementById("ask");
    const field = document.getElementById("token");
    const done = () => {
      asking = null;
      if (dialog.returnValue !== "ok") return reject(new Refused(401, "the server asks for a token"));
      sessionStorage.setItem(KEY, field.value);
      field.value = "";
      resolve();
    };
    dialog.returnValue = "";
    dialog.addEventListener("close", done, { once: true });
    dialog.showModal();
  });
  return asking;
}
