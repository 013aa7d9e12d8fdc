// Several answers in order: each has a place, and those with the same place are tied.

import { w } from "./page.js";

/** Slots by place, best first. */
function groups({ work, task }) {
  const found = new Map();
  for (const { slot } of task.slots) {
    if (work.ranks[slot]) found.set(work.ranks[slot], [...(found.get(work.ranks[slot]) ?? []), slot]);
  }
  return [...found.keys()].sort((a, b) => a - b).map((place) => found.get(place));
}

const inWords = (desk) => groups(desk).map((group) => group.map((slot) => slot.toUpperCase()).join(" = ")).join(" > ");

function put(desk, place, slot = desk.current()) {
  desk.work.outcome = null;
  if (desk.work.ranks[slot] === place) delete desk.work.ranks[slot];
  else desk.work.ranks[slot] = place;
  desk.changed();
  desk.tell(`${slot.toUpperCase()}: ${desk.work.ranks[slot] ? w("ranking.place", place) : "–"}`);
  if (desk.work.ranks[slot]) {
    const open = desk.task.slots.find((each) => !desk.work.ranks[each.slot]);
    if (open) desk.goTo(open.slot);
  }
}

export default {
  actions: {
    ...Object.fromEntries(Array.from({ length: 9 }, (_, i) => [`rank_${i + 1}`, (desk, button) => {
      if (i < desk.task.slots.length) put(desk, i + 1, button?.dataset.slot);
    }])),
    both_bad(desk) {
      desk.work.outcome = desk.work.outcome === "both_bad" ? null : "both_bad";
      desk.changed();
      desk.tell(w("outcome.both_bad"));
    },
  },

  show(desk) {
    const { node, work } = desk;
    for (const answer of node.querySelectorAll(".answer")) {
      const place = work.ranks[answer.dataset.slot];
      for (const button of answer.querySelectorAll(".places button")) {
        button.setAttribute("aria-pressed", button.dataset.action === `rank_${place}`);
      }
    }
    node.querySelector("#order").textContent = inWords(desk) || "–";
    node.querySelector('[data-action="both_bad"]').setAttribute("aria-pressed", work.outcome === "both_bad");
  },

  missing({ work, task }) {
    const open = task.slots.filter(({ slot }) => !work.ranks[slot]).map(({ slot }) => slot.toUpperCase());
    return work.outcome === "both_bad" || !open.length ? null : w("need.places", open.join(", "));
  },

  decision: (desk) => (desk.work.outcome === "both_bad" ? { outcome: "both_bad" }
    : { outcome: "ranked", ranking: groups(desk) }),
};
