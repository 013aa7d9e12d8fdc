// From a key to an action. Keys are places on the keyboard (event.code), so they are the same under every layout and
// with an input method on. While an input method composes, and just after, no key is ours.

import { data, preferences } from "./page.js";

const AFTER_COMPOSITION_MS = 80; // some browsers send the Enter that ended a composition once more
const REPEATING = new Set(["next", "previous", "scroll_down", "scroll_up", "page_down", "page_up"]);
const NAMES = { Enter: "⏎", Space: "␣", ArrowDown: "↓", ArrowUp: "↑", ArrowLeft: "←", ArrowRight: "→", Backspace: "⌫",
  Delete: "⌦", Slash: "?", Comma: ",", Period: ".", Semicolon: ";", Quote: "'", Minus: "-", Equal: "=", BracketLeft: "[",
  BracketRight: "]", Backquote: "`", Backslash: "\\" };
let composing = false;
let composed = -Infinity; // when a composition ended, until the next key
let tail = null; // the key that came just after
let layout = null; // what is printed on the keys of this keyboard, where the browser tells

document.addEventListener("compositionstart", () => { composing = true; }, true);
document.addEventListener("compositionend", (event) => { composing = false; composed = event.timeStamp; }, true);

document.addEventListener("keydown", (event) => {
  tail = event.timeStamp - composed < AFTER_COMPOSITION_MS ? event : null;
  composed = -Infinity; // one key at most: whoever types quickly is not held up
}, true);

/** Whether an event belongs to the input method. Outside text fields it sends 229 for plain keys too: those are ours. */
export function isComposing(event) {
  return composing || event.isComposing || event === tail
    || (event.keyCode === 229 && isField(event.target));
}

/** Whether keys write into this element. */
export function isField(element) {
  return element instanceof HTMLElement && (element.isContentEditable || element.matches(
    'textarea, select, input:not([type="checkbox"], [type="radio"], [type="button"])'));
}

/** Whether Enter or the space bar presses this element itself. */
function isPressed(element, code) {
  return ["Enter", "Space"].includes(code) && element instanceof HTMLElement
    && element.closest('button, a[href], summary, input, [role="button"]') !== null;
}

/** The key of an event as actions name it. */
export function codeOf(event) {
  let code = event.code.replace(/^Numpad(?=\d)/, "Digit").replace(/^NumpadEnter$/, "Enter");
  return event.shiftKey && !code.startsWith("Shift") ? `Shift+${code}` : code;
}

/** Every action's key now. */
export const keysNow = () => ({ ...data.keys, ...preferences.keys });

/** The action of a key for one kind of task, or null. */
export function actionOf(event, kind) {
  if (event.ctrlKey || event.metaKey || event.altKey || isComposing(event) || isField(event.target)) return null;
  const code = codeOf(event);
  if (isPressed(event.target, event.code)) return null;
  const keys = keysNow();
  const possible = data.actions.filter((action) => !kind || action.kinds.includes(kind));
  const found = possible.find((action) => keys[action.name] === code)
    ?? possible.find((action) => keys[action.name] === code.replace(/^Shift\+/, ""));
  return found && (!event.repeat || REPEATING.has(found.name)) ? found.name : null;
}

/** What a key is called on a keycap. */
export function label(code) {
  const [bare, shifted] = [code.replace(/^Shift\+/, ""), code.startsWith("Shift+")];
  const printed = NAMES[bare] ?? layout?.get(bare)?.toUpperCase() ?? bare.replace(/^(Key|Digit)/, "");
  return shifted ? `⇧${printed}` : printed;
}

/** The keycap of an action. */
export const cap = (name) => label(keysNow()[name]);

/** Write the keycaps of an element and all in it, and tell assistive software of them. */
export function writeCaps(root) {
  for (const key of root.querySelectorAll("kbd[data-key]")) {
    key.textContent = cap(key.dataset.key);
    key.closest("button")?.setAttribute("aria-keyshortcuts", keysNow()[key.dataset.key].replace(/Key|Digit/, ""));
  }
}

/** Learn what is printed on the keys, where the browser tells; then write the keycaps again. */
export async function learnLayout(root) {
  try {
    layout = (await navigator.keyboard?.getLayoutMap?.()) ?? null;
  } catch {
    layout = null; // refused by the browser: the names of a US keyboard stand
  }
  writeCaps(root);
}
