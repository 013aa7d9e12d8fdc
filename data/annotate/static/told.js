// What the desk says of a judgment: that it is saved, and what its batch shows after the verdict.

import { w } from "./page.js";

const NOTED_MS = 2600;
const saved = document.getElementById("saved");
let noting;

/** After a judgment: one word where that is all, else what was revealed. */
export function tellSaved(desk, { status, reveal }) {
  const notes = [w(status === "surplus" ? "said.surplus" : "said.saved")];
  if (reveal?.reference) notes.push(w("said.reference", reveal.reference));
  if (reveal?.gold) notes.push(reveal.gold.agrees ? w("said.gold") : w("said.gold_not", inWords(reveal.gold.decision)));
  for (const said of reveal?.suggestions ?? []) notes.push(w("said.judge_not", said.judge, inWords(said.decision)));
  if (notes.length === 1 && status !== "surplus") {
    note(notes[0]);
    desk.tell(notes[0]);
  } else {
    desk.say(notes.join(" · "), { long: true });
  }
}

/** A word beside the count, for a moment. */
export function note(text) {
  saved.textContent = text;
  saved.classList.add("on");
  clearTimeout(noting);
  noting = setTimeout(() => saved.classList.remove("on"), NOTED_MS);
}

function inWords(decision) {
  const wrong = decision.steps?.findIndex((step) => step.rating === -1) ?? -1;
  return { prefer: () => w("outcome.prefer", decision.preferred.toUpperCase(), w(`strength.${decision.strength}`)),
    ranked: () => w("outcome.ranked", decision.ranking.map((group) => group.join(" = ").toUpperCase()).join(" > ")),
    stepped: () => (wrong < 0 ? w("outcome.no_error") : w("outcome.stepped", wrong + 1)),
  }[decision.outcome]?.() ?? w(`outcome.${decision.outcome}`);
}
