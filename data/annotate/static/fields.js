// The fields of a task that an annotator writes in: the reason, and a better answer.

import { w, wellFormed } from "./page.js";
import { cap } from "./keys.js";

/** Show what is written, and open the fields that hold something or were asked for. */
export function showFields({ work, node, task }) {
  const rewrite = node.querySelector("#field-rewrite");
  const reason = node.querySelector("#field-reason");
  const active = document.activeElement;
  for (const [box, text] of [[rewrite, work.rewrite], [reason, work.rationale]]) {
    const area = box.querySelector("textarea");
    box.hidden = !text && active !== area && !box.classList.contains("asked-for");
    if (active !== area && area.value !== (text ?? "")) area.value = text ?? "";
  }
  node.querySelector(".written-by-you").hidden = rewrite.hidden && reason.hidden;
  const offer = node.querySelector("#offer");
  offer.hidden = work.outcome !== "both_bad" || !rewrite.hidden;
  offer.textContent = offer.hidden ? "" : w("rewrite.offer", cap("rewrite"));
  const counts = { tags: work.tags.length, reason: work.rationale.trim().length, rewrite: (work.rewrite ?? "").length, mark: work.spans.length };
  for (const [name, count] of Object.entries(counts)) {
    node.querySelector(`.also [data-action="${name}"]`)?.setAttribute("aria-pressed", count > 0);
  }
  node.classList.toggle("revised", Boolean(task.revises));
}

/** Open a field and write in it. */
export function write(desk, name) {
  const box = desk.node.querySelector(`#field-${name}`);
  box.classList.add("asked-for");
  showFields(desk);
  const area = box.querySelector("textarea");
  area.focus();
  area.scrollIntoView({ block: "nearest" });
}

/** What is typed becomes part of the work. */
export function listenToFields(desk) {
  const { node } = desk;
  const rewrite = node.querySelector("#rewrite");
  rewrite.addEventListener("input", () => { desk.work.rewrite = wellFormed(rewrite.value) || null; desk.changed(); });
  const rationale = node.querySelector("#rationale");
  rationale.addEventListener("input", () => { desk.work.rationale = wellFormed(rationale.value); desk.changed(); });
  node.querySelector("#rewrite-drop").addEventListener("click", () => {
    node.querySelector("#field-rewrite").classList.remove("asked-for");
    desk.work.rewrite = null;
    desk.changed();
    leave(desk);
  });
  for (const button of node.querySelectorAll("[data-copy]")) {
    button.hidden = desk.task.slots.find(({ slot }) => slot === button.dataset.copy)?.text == null;
    button.addEventListener("click", () => {
      rewrite.value = desk.task.slots.find(({ slot }) => slot === button.dataset.copy).text;
      desk.work.rewrite = rewrite.value;
      desk.changed();
      rewrite.focus();
    });
  }
  for (const answer of node.querySelectorAll(".answer")) {
    answer.addEventListener("focusin", () => desk.mark(answer.dataset.slot));
  }
}

/** Out of a field, back to where keys act. */
export function leave(desk) {
  const row = document.activeElement?.closest?.(".step");
  document.activeElement?.blur();
  (row ?? desk.node ?? document.getElementById("main")).focus?.({ preventScroll: true });
  if (desk.node) {
    for (const box of desk.node.querySelectorAll(".asked-for")) if (!box.querySelector("textarea").value) box.classList.remove("asked-for");
    if (desk.work) showFields(desk);
  }
}
