// What every page shares: its words, the server, the choice of language and colours.

export const data = JSON.parse(document.getElementById("page-data").textContent);
export const preferences = data.preferences;
const WAIT_MS = 15000; // for an answer of the server, before it counts as lost

/** A word of the page, its {} filled in with the values in order. */
export function w(name, ...values) {
  const [head, ...tails] = (data.words[name] ?? name).split("{}");
  return head + tails.map((tail, i) => `${values[i] ?? ""}${tail}`).join("");
}

/** An error tag's word: the project's own are translated, a batch's are shown as they are. */
export const tagWord = (tag) => data.words[`tag.${tag}`] ?? tag;

/** The server did not answer, or not sensibly: the same request may be sent again. */
export class Lost extends Error {}

/** The server said no; `code` is one of the API's. */
export class Refused extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

async function answered(path, options) {
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), WAIT_MS);
  let response, text;
  try {
    response = await fetch(path, { credentials: "same-origin", signal: stop.signal, ...options });
    text = await response.text();
  } catch (error) {
    throw new Lost(String(error));
  } finally {
    clearTimeout(timer);
  }
  if (response.ok) return text;
  let refused;
  try {
    refused = JSON.parse(text).error;
  } catch {
    throw new Lost(`status ${response.status}`);
  }
  if (response.status >= 500) throw new Lost(refused.message);
  throw new Refused(refused.code, refused.message);
}

/** POST to the JSON API. Raises Lost or Refused. */
export async function post(name, body, { keepalive = false } = {}) {
  const headers = { "Content-Type": "application/json", "X-Desk-Token": data.token };
  return JSON.parse(await answered(`/api/${name}`, { method: "POST", headers, body: JSON.stringify(body), keepalive }));
}

/** GET some HTML of our own server. Raises Lost or Refused. */
export const html = (path) => answered(path, {});

/** GET some JSON. Raises Lost or Refused. */
export const json = async (path) => JSON.parse(await answered(path, {}));

/** Keep the person's preferences; those who have not signed in have the language alone, in a cookie. */
export async function prefer(changes) {
  Object.assign(preferences, changes);
  if (changes.language) document.cookie = `desk_language=${changes.language}; path=/; max-age=31536000; samesite=strict`;
  if (data.person) await post("preferences", { preferences });
}

export const pageActions = {
  async language() {
    await prefer({ language: data.language === "zh" ? "en" : "zh" });
    location.reload();
  },
  async theme() {
    const order = ["auto", "light", "dark"];
    const next = order[(order.indexOf(document.documentElement.dataset.theme) + 1) % order.length];
    document.documentElement.dataset.theme = next;
    for (const button of document.querySelectorAll('[data-action="theme"] span')) button.textContent = w(`theme.${next}`);
    await prefer({ theme: next });
  },
};

/** Let buttons do what their data-action says; a pointer leaves no focus behind that would catch the next key. */
export function listen(run) {
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-action]");
    if (!button || button.disabled) return;
    if (event.detail > 0) button.blur();
    run(button.dataset.action, button);
  });
}

/** A UUID, also where the page is not in a secure context. */
export function uuid() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

/** Text without halves of surrogate pairs, which no file can hold. */
export const wellFormed = (text) => (text.toWellFormed ? text.toWellFormed() : text.replace(
  /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd"));
