// A server that does not answer: said plainly, and asked again until it does.

import { Lost, w } from "./page.js";

const RETRY_MS = [500, 1000, 2000, 4000];
const banner = document.getElementById("lost");
const sleep = (ms) => new Promise((done) => { setTimeout(done, ms); });

/** Say that the server is away, or that it is back. */
export function tellLost(text) {
  banner.textContent = text ?? "";
  banner.hidden = !text;
}

/** Do it until the server answers; meanwhile the page says plainly that it does not. */
export async function again(request, { back = () => null } = {}) {
  for (let tries = 0; ; tries += 1) {
    try {
      const answer = await request();
      if (tries) {
        tellLost(null);
        back();
      }
      return answer;
    } catch (error) {
      if (!(error instanceof Lost)) throw error;
      if (tries) {
        tellLost(`${w("said.lost")} ${w("said.trying")}`);
      }
      await Promise.race([sleep(RETRY_MS[Math.min(tries, RETRY_MS.length - 1)]),
        new Promise((done) => { window.addEventListener("online", done, { once: true }); })]);
    }
  }
}
