// What opens over the task: the guideline, the keys, the settings, the kinds of error, and the reason of a skip or report.

import { data, html, post, prefer, preferences, tagWord, w, wellFormed } from "./page.js";
import { cap, codeOf, isComposing, isField, keysNow, label, writeCaps } from "./keys.js";

const get = (id) => document.getElementById(id);
const GROUP_OF = new Map([
  ...["reason", "tags", "mark", "rewrite", "skip", "flag", "undo", "submit"].map((name) => [name, "more"]),
  ...["differences", "written", "unfold", "evidence", "scroll_down", "scroll_up", "page_down", "page_up", "next", "previous"].map((name) => [name, "look"]),
  ...["guideline", "help", "keys", "progress", "language", "theme"].map((name) => [name, "page"])]);
const SHOWN_GROUPS = [["group.verdict", (name) => !GROUP_OF.has(name)], ...["more", "look", "page"].map((group) => (
  [`group.${group}`, (name) => GROUP_OF.get(name) === group]))];

function open(dialog) {
  if (!dialog.open) dialog.showModal();
}

export class Dialogs {
  constructor(desk) {
    this.desk = desk;
    this.waitsFor = null; // the action whose new key is waited for
    for (const button of document.querySelectorAll("[data-close]")) {
      button.addEventListener("click", () => button.closest("dialog").close());
    }
    for (const form of document.querySelectorAll("dialog form[data-outcome]")) this.reasons(form);
    get("keys-reset").addEventListener("click", () => this.setKeys({}));
    get("quick").checked = preferences.quick === true;
    get("quick").addEventListener("change", (event) => this.kept(prefer({ quick: event.target.checked })));
    get("sign-out").addEventListener("click", async () => {
      await desk.keeper.send();
      await post("signout", {});
      location.assign("/");
    });
  }

  current = () => document.querySelector("dialog[open]");

  /** A key while a dialog is open. */
  key(event) {
    const dialog = this.current();
    if (this.waitsFor) {
      this.newKey(event);
    } else if (dialog.id === "dialog-tags" && /^Digit[1-9]$/.test(codeOf(event))) {
      dialog.querySelectorAll("input")[Number(event.code.slice(-1)) - 1]?.click();
    } else if (dialog.id === "dialog-tags" && event.code === "Enter" && !isComposing(event)) {
      event.preventDefault();
      dialog.close();
    } else if (/^dialog-(skip|flag)$/.test(dialog.id) && !isField(event.target) && /^(Digit|Numpad)[1-4]$/.test(event.code)) {
      event.preventDefault();
      const number = Number(event.code.slice(-1));
      if (number === 4) dialog.querySelector("input").focus();
      else dialog.querySelectorAll("[data-reason]")[number - 1].click();
    } else if (isField(event.target) && event.key === "Enter" && isComposing(event)) {
      event.preventDefault(); // it ends the composition and sends nothing
    } else if (["dialog-guideline", "dialog-help"].includes(dialog.id) && !event.ctrlKey
      && ["guideline", "help"].some((name) => dialog.id.endsWith(name) && codeOf(event).endsWith(keysNow()[name]))) {
      event.preventDefault();
      dialog.close();
    }
  }

  async guideline() {
    const [dialog, version] = [get("dialog-guideline"), this.desk.task?.guideline];
    const body = dialog.querySelector(".body");
    open(dialog);
    body.focus();
    if (body.dataset.version === (version ?? "newest")) return;
    try {
      body.innerHTML = await html(`/guideline${version ? `?version=${encodeURIComponent(version)}` : ""}`);
      body.dataset.version = version ?? "newest";
    } catch (error) {
      body.textContent = w("said.refused", error.message);
    }
  }

  help() {
    const body = get("dialog-help").querySelector(".body");
    body.replaceChildren(...this.groups((action) => {
      const row = document.createElement("div");
      const key = document.createElement("kbd");
      const word = document.createElement("span");
      [key.textContent, word.textContent] = [cap(action.name), w(`do.${action.name}`)];
      row.append(key, word);
      return row;
    }));
    open(get("dialog-help"));
    body.focus();
  }

  settings() {
    this.drawSettings();
    get("keys-said").textContent = "";
    open(get("dialog-keys"));
  }

  drawSettings() {
    get("dialog-keys").querySelector(".body").replaceChildren(...this.groups((action) => {
      const button = document.createElement("button");
      const key = document.createElement("kbd");
      const word = document.createElement("span");
      [button.type, button.className] = ["button", "quiet"];
      [key.textContent, word.textContent] = [cap(action.name), w(`do.${action.name}`)];
      button.append(key, word);
      button.dataset.rebind = action.name;
      button.addEventListener("click", () => {
        this.waitsFor = action;
        get("keys-said").textContent = w("keys.change", w(`do.${action.name}`));
        key.textContent = "…";
      });
      return button;
    }));
  }

  /** Headings and items of the actions of this kind of task. */
  groups(item) {
    const actions = data.actions.filter((action) => !this.desk.task || action.kinds.includes(this.desk.task.kind));
    return SHOWN_GROUPS.map(([word, belongs]) => {
      const section = document.createElement("section");
      const title = document.createElement("h3");
      title.textContent = w(word);
      section.append(title, ...actions.filter((action) => belongs(action.name)).map(item));
      return section;
    });
  }

  newKey(event) {
    if (["Shift", "Control", "Alt", "Meta", "Tab"].includes(event.key) || isComposing(event)) return;
    event.preventDefault();
    const action = this.waitsFor;
    this.waitsFor = null;
    const [code, keys] = [codeOf(event), keysNow()];
    const holder = data.actions.find((other) => other.name !== action.name && keys[other.name] === code
      && other.kinds.some((kind) => action.kinds.includes(kind)));
    if (event.code === "Escape" || !event.code) {
      get("keys-said").textContent = "";
    } else if (holder) {
      get("keys-said").textContent = w("keys.clash", label(code), w(`do.${holder.name}`));
    } else {
      this.setKeys({ ...preferences.keys, [action.name]: code });
    }
    this.drawSettings();
    get("dialog-keys").querySelector(`[data-rebind="${action.name}"]`)?.focus();
  }

  setKeys(keys) {
    if (!Object.keys(keys).length) for (const action of data.actions) data.keys[action.name] = action.key;
    this.kept(prefer({ keys }));
    writeCaps(document);
    this.drawSettings();
  }

  kept(promise) {
    promise.then(() => { get("keys-said").textContent = w("keys.saved"); },
      (error) => { get("keys-said").textContent = w("said.refused", error.message); });
  }

  tags() {
    const { desk } = this;
    const body = get("dialog-tags").querySelector(".body");
    body.replaceChildren(...desk.task.error_tags.map((tag, i) => {
      const [row, box, key, word] = ["label", "input", "kbd", "span"].map((name) => document.createElement(name));
      [box.type, box.checked] = ["checkbox", desk.work.tags.includes(tag)];
      [key.textContent, word.textContent] = [i < 9 ? i + 1 : "", tagWord(tag)];
      box.addEventListener("change", () => {
        desk.work.tags = desk.task.error_tags.filter((each) => (each === tag ? box.checked : desk.work.tags.includes(each)));
        desk.changed();
      });
      row.append(box, ...(i < 9 ? [key] : []), word);
      return row;
    }));
    open(get("dialog-tags"));
  }

  /** Ask why a task is skipped or reported. */
  ask(outcome) {
    const dialog = get(`dialog-${outcome}`);
    dialog.querySelector(".wrong").textContent = "";
    open(dialog);
  }

  reasons(form) {
    const { outcome } = form.dataset;
    const [field, wrong] = [form.querySelector("input"), form.querySelector(".wrong")];
    const send = (reason) => {
      if (!reason) {
        wrong.textContent = w("need.reason");
        field.focus();
        return;
      }
      form.closest("dialog").close();
      field.value = "";
      this.desk.send({ outcome, reason: wellFormed(reason) });
    };
    for (const button of form.querySelectorAll("[data-reason]")) {
      button.addEventListener("click", () => send(button.querySelector("span").textContent));
    }
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      send(field.value.trim());
    });
  }
}
