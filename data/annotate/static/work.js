// What an annotator has done of a task so far: kept at every change, in this browser at once and on the server soon after.
//
// The form is that of the API's decision, with the places of a ranking and the time spent beside it.

import { Lost, data, post } from "./page.js";

const SOON_MS = 400; // after the last change
const AGAIN_MS = 3000; // after the server did not answer
const place = (assignment) => `desk.draft.${data.person}.${assignment}`;

const EMPTY = { outcome: null, preferred: null, strength: 0, ranks: {}, ratings: {}, steps: [], corrections: [],
  correction_declined: false, rewrite: null, rationale: "", tags: [], spans: [], elapsed_ms: 0, at: 0, revises: null };

function local(assignment) {
  try {
    return JSON.parse(localStorage.getItem(place(assignment)));
  } catch {
    return null; // storage is refused, or another page wrote there: the server's draft stands
  }
}

/** The newer of the two drafts of a task, or an empty one. A judgment that was taken back comes from the server alone. */
export function restored(task) {
  const [here, there] = [local(task.id), task.draft];
  const isCurrent = here && (here.revises ?? null) === task.revises && here.at > (there?.at ?? 0);
  const draft = isCurrent ? here : there;
  const work = structuredClone(EMPTY);
  for (const name of Object.keys(EMPTY)) if (draft?.[name] != null) work[name] = structuredClone(draft[name]);
  if (draft?.ranking && !draft.ranks) draft.ranking.forEach((group, i) => group.forEach((slot) => { work.ranks[slot] = i + 1; }));
  work.revises = task.revises;
  if (work.outcome === "skip" || work.outcome === "flag") work.outcome = null;
  if (task.kind === "stepwise" && work.steps.length !== task.steps.length) {
    work.steps = task.steps.map((_, step) => ({ step, rating: null, tag: null, note: "" }));
  }
  return work;
}

export class Keeper {
  /** `told(state)` hears of "kept", "local" (the server did not answer) and "gone" (the task is judged elsewhere). */
  constructor(told) {
    this.told = told;
    this.timer = null;
    this.sending = null;
    this.task = null;
  }

  /** From now on the work on this task is kept. */
  follow(task, work) {
    clearTimeout(this.timer);
    [this.task, this.work, this.isDirty] = [task, work, false];
  }

  changed() {
    this.work.at = Date.now();
    this.isDirty = true;
    try {
      localStorage.setItem(place(this.task.id), JSON.stringify(this.work));
    } catch {
      this.isLocalFull = true; // the server's copy has to do
    }
    this.later(SOON_MS);
  }

  later(wait) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.send(), wait);
  }

  /** Send the draft now. */
  async send({ keepalive = false } = {}) {
    clearTimeout(this.timer);
    if (!this.task || !this.isDirty) return;
    const { task, work } = this;
    this.isDirty = false;
    try {
      this.sending = post("draft", { assignment: task.id, draft: work }, { keepalive });
      await this.sending;
      if (task === this.task) this.told("kept");
    } catch (error) {
      if (task !== this.task) return;
      if (error instanceof Lost) {
        this.isDirty = true;
        this.told("local");
        this.later(AGAIN_MS);
      } else {
        this.told(error.code === "already_judged" ? "gone" : error.code);
      }
    }
  }

  /** The task is done: no draft of it is needed any more. */
  forget() {
    clearTimeout(this.timer);
    try {
      localStorage.removeItem(place(this.task.id));
    } catch {
      this.isLocalFull = true;
    }
    this.task = null;
  }
}

/** Judgments on their way: kept in this browser until the server has them, and sent with the same id until then. */
export const outbox = {
  place: `desk.outbox.${data.person}`,
  waiting: null, // where the browser keeps nothing
  get() {
    try {
      return JSON.parse(localStorage.getItem(this.place)) ?? this.waiting;
    } catch {
      return this.waiting;
    }
  },
  put(letter) {
    this.waiting = letter;
    try {
      if (letter) localStorage.setItem(this.place, JSON.stringify(letter));
      else localStorage.removeItem(this.place);
    } catch {
      this.isLocalFull = true; // `waiting` has it
    }
  },
};
