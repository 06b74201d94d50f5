// How numbers and places are said.

// A share in [0, 1]; 100 % only of the whole.
export function percent(share, digits = 1) {
  const least = 10 ** -digits;
  if (share > 0 && 100 * share < least / 2) return `<${least}\u202f%`;
  const most = 100 - least;
  const value = share < 1 - 1e-9 ? Math.min(100 * share, most) : 100;
  return `${value.toFixed(digits)}\u202f%`;
}

// A difference of two shares, in points.
export function points(change) {
  const value = Math.abs(100 * change).toFixed(1);
  if (Number(value) === 0) return value;
  return `${change > 0 ? "+" : "\u2212"}${value}`;
}

export function counted(count, one, many = `${one}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}

// Parameters in three digits.
export function short(count) {
  for (const [size, name] of [[1e9, "billion"], [1e6, "million"]]) {
    if (count >= size) return `${Number((count / size).toPrecision(3))} ${name}`;
  }
  return count.toLocaleString("en");
}

// An element with attributes and what is in it; text stays text, whatever it says.
export function element(name, attributes = {}, ...inside) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== false && value !== undefined) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...inside);
  return made;
}

export const byId = (id) => document.getElementById(id);

// Let arrow keys move among buttons of which one is chosen, as in a group of radio buttons.
export function choosable(group) {
  group.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const buttons = [...group.querySelectorAll("[role=radio]:not([disabled])")];
    const at = buttons.indexOf(document.activeElement);
    if (!step || at < 0) return;
    event.preventDefault();
    const next = buttons[(at + step + buttons.length) % buttons.length];
    next.focus();
    next.click();
  });
}

// Mark one of some radio buttons as the chosen one; only that is reached by the tab key.
export function choose(buttons, chosen) {
  const reached = chosen && !chosen.disabled ? chosen : buttons.find((button) => !button.disabled);
  for (const button of buttons) {
    button.setAttribute("aria-checked", button === chosen);
    button.tabIndex = button === reached ? 0 : -1;
  }
}
