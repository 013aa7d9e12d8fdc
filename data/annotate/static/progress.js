// The progress page: keys, and the agreement, which takes the server a moment.

import { html, listen, pageActions, w } from "./page.js";
import { actionOf, learnLayout } from "./keys.js";

const run = (name) => (name === "progress" ? location.assign("/") : pageActions[name]?.());
const agreement = document.getElementById("agreement");

learnLayout(document);
listen(run);
document.addEventListener("keydown", (event) => {
  const action = actionOf(event, null);
  if (action) run(action);
});
if (agreement) {
  html(agreement.dataset.src).then(
    (text) => { agreement.innerHTML = text; },
    (error) => { agreement.textContent = w("said.refused", error.message); },
  ).finally(() => agreement.removeAttribute("aria-busy"));
}
