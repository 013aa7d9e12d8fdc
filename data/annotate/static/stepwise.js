// A solution step by step: rate each, mark the first wrong one, write the step that belongs there. Those after it are
// not judged.

import { w, wellFormed } from "./page.js";
import { cap } from "./keys.js";

const RATINGS = { right: 1, neutral: 0, wrong: -1 };
const rows = ({ node }) => [...node.querySelectorAll(".step")];
const firstError = ({ work }) => work.steps.findIndex((step) => step.rating === -1);

function at(desk) {
  const focused = document.activeElement?.closest?.(".step");
  const all = rows(desk);
  return Math.max(0, all.indexOf(focused ?? all.find((row) => row.classList.contains("at"))));
}

function goTo(desk, index, { focus = true } = {}) {
  const all = rows(desk);
  const row = all[Math.min(Math.max(index, 0), all.length - 1)];
  all.forEach((each) => each.classList.toggle("at", each === row));
  if (focus) row.focus();
  row.scrollIntoView({ block: "nearest" });
}

function field(desk, index) {
  return rows(desk)[index].querySelector(".correction textarea");
}

function edit(desk, index) {
  const area = field(desk, index);
  desk.work.correction_declined = false;
  if (!desk.work.corrections.length) {
    desk.work.corrections = [{ step: index, text: desk.task.steps[index].trimEnd().replace(/\n/g, " ") }];
  }
  desk.changed();
  area.focus();
  area.setSelectionRange(area.value.length, area.value.length);
}

function rate(desk, rating, button) {
  const index = button ? Number(button.dataset.step ?? at(desk)) : at(desk);
  const wrong = firstError(desk);
  if (rating !== -1 && wrong >= 0 && index > wrong) {
    desk.refuse(`${w("step", index + 1)}: ${w("not_judged")}`);
    return;
  }
  if (rating === -1) {
    if (wrong !== index) [desk.work.corrections, desk.work.correction_declined] = [[], false];
    desk.work.steps.forEach((step, i) => { if (i > index) [step.rating, step.tag] = [null, null]; });
  } else if (wrong === index) {
    [desk.work.corrections, desk.work.correction_declined] = [[], false];
    desk.work.steps[index].tag = null;
  }
  desk.work.steps[index].rating = rating;
  desk.changed();
  desk.tell(`${w("step", index + 1)}: ${rating === null ? w("not_judged") : w(`do.${Object.keys(RATINGS).find((name) => RATINGS[name] === rating)}`)}`);
  if (rating === -1) {
    goTo(desk, index, { focus: false });
    edit(desk, index);
  } else if (rating !== null) {
    goTo(desk, index + 1);
  }
}

export default {
  actions: {
    ...Object.fromEntries(Object.entries(RATINGS).map(([name, rating]) => [name, (desk, button) => rate(desk, rating, button)])),
    first_error: (desk) => rate(desk, -1),
    clear: (desk) => rate(desk, null),
    correct(desk) {
      const wrong = firstError(desk);
      if (wrong < 0) desk.refuse(w("need.choice", `${cap("first_error")} ${w("do.first_error")}`));
      else edit(desk, wrong);
    },
    decline(desk) {
      const wrong = firstError(desk);
      if (wrong < 0) return;
      desk.work.correction_declined = !desk.work.correction_declined;
      if (desk.work.correction_declined) desk.work.corrections = [];
      desk.changed();
      desk.tell(w("correction.declined"));
      goTo(desk, wrong);
    },
  },

  move: (desk, by) => goTo(desk, at(desk) + by),

  begin(desk) {
    const open = desk.work.steps.findIndex((step) => step.rating === null);
    const wrong = firstError(desk);
    goTo(desk, wrong >= 0 ? wrong : Math.max(open, 0));
    rows(desk).forEach((row, index) => {
      const area = row.querySelector(".correction textarea");
      area.addEventListener("input", () => {
        desk.work.corrections = [{ step: index, text: wellFormed(area.value.replace(/\n+/g, " ")) }];
        desk.work.correction_declined = false;
        desk.changed();
      });
      area.addEventListener("blur", () => { area.value = area.value.replace(/\n+/g, " "); });
      row.querySelector(".step-tag")?.addEventListener("change", (event) => {
        desk.work.steps[index].tag = event.target.value || null;
        desk.changed();
      });
    });
  },

  show(desk) {
    const { work } = desk;
    const wrong = firstError(desk);
    rows(desk).forEach((row, index) => {
      const { rating, tag } = work.steps[index];
      row.dataset.rating = rating ?? "";
      row.classList.toggle("past", wrong >= 0 && index > wrong);
      for (const [name, value] of Object.entries(RATINGS)) {
        row.querySelector(`.verdict .${name}`).setAttribute("aria-pressed", rating === value);
      }
      const box = row.querySelector(".correction");
      box.hidden = index !== wrong;
      if (index !== wrong) return;
      const area = box.querySelector("textarea");
      const text = work.corrections[0]?.text ?? "";
      if (document.activeElement !== area && area.value !== text) area.value = text;
      box.classList.toggle("declined", work.correction_declined);
      box.querySelector('[data-action="decline"]').setAttribute("aria-pressed", work.correction_declined);
      if (box.querySelector(".step-tag")) box.querySelector(".step-tag").value = tag ?? "";
    });
    desk.node.querySelector('.decision [data-action="first_error"]').setAttribute("aria-pressed", wrong >= 0);
  },

  missing(desk) {
    const { work, task } = desk;
    const wrong = firstError(desk);
    const open = work.steps.findIndex((step, i) => step.rating === null && (wrong < 0 || i < wrong));
    if (open >= 0) {
      goTo(desk, open);
      return w("need.steps", open + 1);
    }
    if (wrong < 0 || work.correction_declined) return null;
    const text = work.corrections[0]?.text.trim() ?? "";
    return text && text !== task.steps[wrong].trim() ? null : w("need.correction", cap("decline"));
  },

  decision: ({ work }) => ({ outcome: "stepped", steps: work.steps,
    corrections: work.correction_declined ? [] : work.corrections.map((each) => ({ ...each, text: each.text.trim() })),
    correction_declined: work.correction_declined }),
};
