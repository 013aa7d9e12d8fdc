// Each answer by aspect, from 1 to the scale's end.

import { w } from "./page.js";

const lines = ({ node }) => [...node.querySelectorAll(".aspect")];
const rated = ({ work }, line) => work.ratings[line.dataset.slot]?.[line.dataset.aspect];

function line(desk) {
  const focused = document.activeElement?.closest?.(".aspect");
  return focused ?? lines(desk).find((each) => each.classList.contains("at")) ?? lines(desk)[0];
}

function goTo(desk, to) {
  if (!to) return;
  lines(desk).forEach((each) => each.classList.toggle("at", each === to));
  desk.mark(to.dataset.slot);
  to.focus({ preventScroll: false });
}

function rate(desk, number, button) {
  if (number > desk.task.scale) return;
  const to = button?.closest(".aspect") ?? line(desk);
  const { slot, aspect } = to.dataset;
  desk.work.ratings = { ...desk.work.ratings, [slot]: { ...desk.work.ratings[slot], [aspect]: number } };
  desk.changed();
  desk.tell(`${slot.toUpperCase()} ${to.querySelector(".name").textContent}: ${number}`);
  const all = lines(desk);
  goTo(desk, all.slice(all.indexOf(to) + 1).find((each) => !rated(desk, each)) ?? to);
}

export default {
  actions: Object.fromEntries(Array.from({ length: 10 }, (_, i) => [`rate_${i + 1}`, (desk, button) => rate(desk, i + 1, button)])),

  move(desk, by) {
    const all = lines(desk);
    goTo(desk, all[all.indexOf(line(desk)) + by]);
  },

  goToSlot: (desk, slot) => goTo(desk, lines(desk).find((each) => each.dataset.slot === slot)),

  begin: (desk) => goTo(desk, lines(desk).find((each) => !rated(desk, each)) ?? lines(desk)[0]),

  show(desk) {
    for (const each of lines(desk)) {
      for (const button of each.querySelectorAll("button")) {
        button.setAttribute("aria-pressed", button.dataset.action === `rate_${rated(desk, each)}`);
      }
    }
  },

  missing(desk) {
    const open = lines(desk).filter((each) => !rated(desk, each));
    return open.length ? w("need.ratings", open.map((each) => (
      `${each.dataset.slot.toUpperCase()} ${each.querySelector(".name").textContent}`)).join(", ")) : null;
  },

  decision: ({ work }) => ({ outcome: "rated", ratings: work.ratings }),
};
