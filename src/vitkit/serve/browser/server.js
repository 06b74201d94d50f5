// Requests to the server that sent this page.

const KEY = "vitkit-token";
const ANOTHER = "The server has another model by now; load the page again to look into that one.";
const running = new Map(); // what is being asked, by what it is for

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// Ask for something and read it; a newer request for the same purpose takes an older one's place.
async function send(purpose, path, read, options = {}) {
  giveUp(purpose);
  const control = new AbortController();
  running.set(purpose, control);
  try {
    let token = sessionStorage.getItem(KEY);
    for (;;) {
      const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
      const answer = await reach(path, { ...options, headers, signal: control.signal });
      if (answer.status === 401) {
        token = await askForToken(token ? "That token is not right." : "");
      } else if (answer.status === 429) {
        await pause(1000 * Number(answer.headers.get("Retry-After") || 1), control.signal);
      } else if (answer.ok) {
        if (token) sessionStorage.setItem(KEY, token);
        return await read(answer);
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

let model = null; // the one that answered first

// JSON, which must be of the model that the page knows.
async function asJson(answer) {
  const said = await answer.json();
  model ??= said.model;
  if (said.model && (said.model.version !== model.version || said.model.name !== model.name)) {
    throw new Refused(0, ANOTHER);
  }
  return said;
}

const asFile = (answer) => answer.blob();

export function get(path) {
  return send(path, path, asJson);
}

export function getFile(path) {
  return send(path, path, asFile);
}

// Send an image, and read what comes back as JSON, or as a file where `file` says so.
export function post(purpose, path, image, query = {}, { file = false } = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== undefined);
  const address = given.length ? `${path}?${new URLSearchParams(given)}` : path;
  const headers = { "Content-Type": "application/octet-stream" };
  return send(purpose, address, file ? asFile : asJson, { method: "POST", body: image, headers });
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
    const { message } = (await answer.json()).error;
    return message.startsWith("a fitted image has") ? ANOTHER : message;
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

function askForToken(wrong) {
  asking ??= new Promise((resolve, reject) => {
    const dialog = document.getElementById("ask");
    const field = document.getElementById("token");
    const note = document.getElementById("token-note");
    note.textContent = wrong || "It is kept until this tab is closed.";
    const done = () => {
      asking = null;
      const token = field.value.trim();
      field.value = "";
      if (dialog.returnValue !== "ok") reject(new Refused(401, "The server asks for a token; load the page again to give it."));
      else if (/^[\x21-\x7e]+$/.test(token)) resolve(token);
      else resolve(askForToken("A token has letters, digits and signs of ASCII alone."));
    };
    dialog.returnValue = "";
    dialog.addEventListener("close", done, { once: true });
    dialog.showModal();
  });
  return asking;
}
