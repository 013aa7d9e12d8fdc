// Two answers: which is better, and by how much.

import { w } from "./page.js";
import { cap } from "./keys.js";

const STRENGTHS = ["slightly", "better", "much"];

function choose(desk, outcome, preferred = null) {
  const { work } = desk;
  const again = work.outcome === outcome && work.preferred === preferred;
  work.outcome = outcome;
  work.preferred = preferred;
  if (outcome !== "prefer") work.strength = 0;
  desk.changed();
  if (!again && preferred) desk.tell(w("said.chosen", preferred.toUpperCase()));
  if (!again && !preferred) desk.tell(w(`outcome.${outcome}`));
}

function strength(desk, number) {
  if (desk.work.outcome !== "prefer") {
    desk.refuse(w("need.choice", `${cap("prefer_a")} / ${cap("prefer_b")}`));
    return;
  }
  desk.work.strength = number;
  desk.changed();
  desk.tell(`${desk.work.preferred.toUpperCase()}: ${w(`do.${STRENGTHS[number - 1]}`)}`);
}

export default {
  actions: {
    prefer_a: (desk) => choose(desk, "prefer", "a"),
    prefer_b: (desk) => choose(desk, "prefer", "b"),
    tie: (desk) => choose(desk, "tie"),
    both_bad: (desk) => choose(desk, "both_bad"),
    slightly: (desk) => strength(desk, 1),
    better: (desk) => strength(desk, 2),
    much: (desk) => strength(desk, 3),
  },

  show({ node, work }) {
    const pressed = { prefer_a: work.preferred === "a", prefer_b: work.preferred === "b", tie: work.outcome === "tie",
      both_bad: work.outcome === "both_bad" };
    STRENGTHS.forEach((name, i) => { pressed[name] = work.strength === i + 1; });
    for (const [name, value] of Object.entries(pressed)) {
      const button = node.querySelector(`.decision [data-action="${name}"]`);
      button.setAttribute("aria-pressed", value);
      if (STRENGTHS.includes(name)) button.disabled = work.outcome !== "prefer";
    }
    node.querySelector(".strength").classList.toggle("asks", work.outcome === "prefer" && !work.strength);
    for (const answer of node.querySelectorAll(".answer")) {
      answer.classList.toggle("chosen", work.preferred === answer.dataset.slot);
    }
  },

  missing({ work }) {
    if (!work.outcome) {
      return w("need.choice", ["prefer_a", "prefer_b", "tie", "both_bad"].map((name) => `${cap(name)} ${w(`do.${name}`)}`).join("  "));
    }
    if (work.outcome === "prefer" && !work.strength) {
      return w("need.strength", STRENGTHS.map((name) => `${cap(name)} ${w(`do.${name}`)}`).join("  "));
    }
    return null;
  },

  decision: ({ work }) => ({ outcome: work.outcome,
    ...(work.outcome === "prefer" ? { preferred: work.preferred, strength: work.strength } : {}) }),
};
