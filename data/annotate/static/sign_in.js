// Signing in: a pseudonym, and the desk.

import { Refused, listen, pageActions, post, w } from "./page.js";
import { actionOf, isComposing, learnLayout } from "./keys.js";

const form = document.getElementById("sign-in");
const wrong = document.getElementById("sign-in-error");

learnLayout(document);
listen((name) => pageActions[name]?.());
document.addEventListener("keydown", (event) => pageActions[actionOf(event, null)]?.());
form?.elements.annotator.focus();
form?.elements.annotator.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && isComposing(event)) event.preventDefault();
});
form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await post("session", { annotator: form.elements.annotator.value.trim() });
    location.assign("/");
  } catch (error) {
    wrong.textContent = error instanceof Refused ? error.message : w("said.lost");
    form.elements.annotator.setAttribute("aria-invalid", "true");
    form.elements.annotator.focus();
  }
});
