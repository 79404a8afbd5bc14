// Builds elements without markup in texts, which the page's policy forbids.
import { t } from "./texts.js";

const ICONS = {
  close: "M6 6l12 12M18 6L6 18",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  download: "M12 4v11m-5-4.5 5 5 5-5M5 20h14",
  brush: "M4 20c3.5 0 5-1.5 5-4a2.5 2.5 0 0 0-5 0c0 2-1 3-2 3 .5.7 1.2 1 2 1zM9.5 14 20 3.5M8 12.5l3 3",
  trash: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5M14 11v5",
  expand: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  plus: "M12 5v14M5 12h14",
  minus: "M5 12h14",
  previous: "M15 5l-7 7 7 7",
  next: "M9 5l7 7-7 7",
  undo: "M8 5 4 9l4 4M4 9h10a6 6 0 0 1 0 12h-4",
  redo: "M16 5l4 4-4 4M20 9H10a6 6 0 0 0 0 12h4",
  compare: "M12 3v18M8 8l-4 4 4 4M16 8l4 4-4 4",
  warn: "M12 4 2.5 20h19zM12 10v4.5M12 17.3v.2",
};

export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const path = document.createElementNS(space, "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("icon");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

// Makes an element: properties by name, `data-` and `aria-` as attributes, `on…` as listeners. A button submits
// nothing unless its type says so.
export function make(tag, options = {}, ...children) {
  const made = document.createElement(tag);
  if (tag === "button") made.type = tag;
  for (const [name, value] of Object.entries(options)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else if (name.includes("-") || name === "for" || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((each) => each != null));
  return made;
}

export const textButton = (text, onclick, more = "", options = {}) => make("button", { class: `button ${more}`, onclick, ...options }, text);

export function iconButton(name, label, act, more = "") {
  return make(
    "button",
    { class: `icon-button ${more}`, "aria-label": label, title: label, onclick: act },
    icon(name),
  );
}

export const byId = (id) => document.getElementById(id);

// Puts the texts of this language in the place of those in the markup.
export function translate(root = document) {
  if (root === document) document.title = t(document.body.dataset.title);
  for (const each of root.querySelectorAll("[data-text]")) each.textContent = t(each.dataset.text);
  for (const each of root.querySelectorAll("[data-label]")) {
    each.setAttribute("aria-label", t(each.dataset.label));
    each.title = t(each.dataset.label);
  }
}

export function say(text) {
  byId("spoken").textContent = text;
}

// Shows a text for some seconds, with a button if there is something to do about it.
export function toast(text, { act, label, seconds = 6 + text.length / 25 } = {}) {
  const toasts = byId("toasts");
  const from = document.activeElement;
  const end = () => {
    if (made.contains(document.activeElement)) from.focus();
    made.remove();
    if (!toasts.childElementCount) toasts.hidePopover?.();
  };
  const button = act && textButton(label, () => { end(); act(); }, "small-button");
  const made = make("p", { class: "toast" }, make("span", {}, text), button);
  // On top of a dialog that is open.
  toasts.hidePopover?.();
  toasts.append(made);
  // To the keyboard, it follows what has the focus.
  toasts.showPopover?.({ source: from });
  setTimeout(end, seconds * 1000);
}

// Gives the focus of a control that has gone to an element, from where the keyboard goes on.
export function keepFocus(next) {
  const { activeElement: now } = document;
  if (had && (now === document.body || now === had) && !had.checkVisibility()) next.focus({ preventScroll: true });
}
let had = null;
addEventListener("focusin", ({ target }) => (had = target));

// Moves a slider from after, at 0, to before, and says so.
export function moveSplit(range, value) {
  range.value = value;
  range.ariaValueText = `${t("before")} ${Math.round(range.value)} %`;
}

// Shows that a button's act goes on, and takes no second click meanwhile.
export async function busy(button, act) {
  if (button.ariaBusy === "true") return;
  button.ariaBusy = "true";
  try {
    await act();
  } finally {
    button.ariaBusy = null;
  }
}

export function save(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
