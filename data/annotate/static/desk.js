// The desk: one task after the other. Takes the next, shows it, reads keys, sends the judgment, takes it back.

import { Lost, Refused, html, listen, pageActions, post, preferences, uuid, w } from "./page.js";
import { actionOf, isComposing, isField, learnLayout, writeCaps } from "./keys.js";
import { Answers } from "./answers.js";
import { elapsed, startClock } from "./clock.js";
import { Dialogs } from "./dialogs.js";
import { Marks } from "./marks.js";
import { Keeper, outbox, restored } from "./work.js";
import { leave, listenToFields, showFields, write } from "./fields.js";
import { again, tellLost } from "./lost.js";
import { note, tellSaved } from "./told.js";
import pairwise from "./pairwise.js";
import ranking from "./ranking.js";
import rating from "./rating.js";
import stepwise from "./stepwise.js";

const KINDS = { pairwise, ranking, rating, stepwise };
const UI_VERSION = "1";
const SAID_MS = 2600;
const get = (id) => document.getElementById(id);

const desk = {
  task: null, work: null, node: null, answers: null, marks: null, ahead: null, isSending: false, slot: "a",
  keeper: new Keeper((state) => heard(state)),

  /** Tell, on the page and to a screen reader. */
  say(text, { wrong = false, long = wrong } = {}) {
    const said = get("said");
    said.textContent = text;
    said.style.bottom = `${(this.node?.querySelector(".decision").offsetHeight ?? 0) + 14}px`;
    said.classList.toggle("wrong-one", wrong);
    said.classList.add("on");
    clearTimeout(this.saying);
    this.saying = setTimeout(() => said.classList.remove("on"), long ? 2.5 * SAID_MS : SAID_MS);
  },

  /** Tell a screen reader what the page shows anyway. */
  tell(text) { get("told").textContent = text; },

  refuse(text) { this.say(text, { wrong: true }); },

  /** The work has changed: show it, keep it, and send it where that is all there is to do. */
  changed() {
    this.work.elapsed_ms = elapsed();
    this.keeper.changed();
    this.show();
  },

  show() {
    KINDS[this.task.kind].show(this);
    this.marks.show();
    showFields(this);
  },

  current: () => desk.slot,

  /** The answer that keys are about. */
  mark(slot) {
    this.slot = slot;
    for (const answer of this.node.querySelectorAll(".answer")) answer.classList.toggle("at", answer.dataset.slot === slot);
  },

  goTo(slot) {
    const kind = KINDS[this.task.kind];
    if (kind.goToSlot) {
      kind.goToSlot(this, slot);
      return;
    }
    this.mark(slot);
    this.node.querySelector(`.answer[data-slot="${slot}"]`).focus();
  },

  move(by) {
    const kind = KINDS[this.task.kind];
    if (kind.move) {
      kind.move(this, by);
      return;
    }
    const slots = this.task.slots.map(({ slot }) => slot);
    this.goTo(slots[(slots.indexOf(this.slot) + by + slots.length) % slots.length]);
  },

  send: (decision) => send(decision),
};

const dialogs = new Dialogs(desk);

document.addEventListener("visibilitychange", () => {
  if (!desk.work) return;
  desk.work.elapsed_ms = elapsed();
  if (document.visibilityState === "hidden") desk.keeper.send({ keepalive: true });
});
window.addEventListener("pagehide", () => desk.keeper.send({ keepalive: true }));

// ------------------------------------------------------------------------------------------------------- coming, going

/** What /api/next says: show its task, and fetch the one ahead. */
async function turn(next) {
  count(next.progress);
  const { current } = next;
  if (!current) {
    nothing(next);
    return;
  }
  const page = desk.ahead?.id === current.id ? desk.ahead.page : html(`/task/${current.id}`);
  let text;
  try {
    text = await page;
  } catch (error) {
    if (!(error instanceof Lost)) throw error;
    text = await again(() => html(`/task/${current.id}`));
  }
  show(current, text);
  desk.ahead = next.ahead && { id: next.ahead.id, page: html(`/task/${next.ahead.id}`) };
  desk.ahead?.page.catch(() => { desk.ahead = null; }); // it is fetched when its turn comes
  again(() => post("open", { assignment: current.id })).catch(() => null); // the lease stands without it
}

function show(task, text) {
  const holder = document.createElement("template");
  holder.innerHTML = text;
  const node = holder.content.querySelector(".task");
  writeCaps(node);
  desk.node = node;
  [desk.task, desk.work, desk.isSending] = [task, restored(task), false];
  startClock(desk.work.elapsed_ms);
  desk.keeper.follow(task, desk.work);
  node.tabIndex = -1;
  node.setAttribute("aria-labelledby", "kind");
  get("main").replaceChildren(node);
  get("main").removeAttribute("aria-busy");
  get("kind").textContent = w(`kind.${task.kind}`);
  desk.answers = new Answers(node, task, (message) => desk.refuse(message));
  desk.answers.apply(node);
  desk.marks = new Marks(desk);
  listenToFields(desk);
  desk.mark(task.slots[0].slot);
  node.focus({ preventScroll: true });
  desk.show();
  KINDS[task.kind].begin?.(desk);
  if (task.revises) desk.tell(w("said.revising"));
  window.scrollTo(0, 0);
}

function nothing({ reason, retry_after_s: wait }) {
  const word = { done: "done", none_imported: "none", leased: "leased" }[reason] ?? "done";
  const box = document.createElement("div");
  const [title, text] = [document.createElement("h2"), document.createElement("p")];
  [title.textContent, text.textContent] = [w(`${word}.title`), w(`${word}.text`)];
  box.className = "nothing";
  box.append(title, text);
  [desk.task, desk.work, desk.node, desk.ahead, desk.isSending] = [null, null, null, null, false];
  get("kind").textContent = "";
  get("main").replaceChildren(box);
  get("main").removeAttribute("aria-busy");
  get("main").focus();
  if (wait) setTimeout(() => desk.task ?? begin(), wait * 1000);
}

function count({ mine }) {
  get("count").textContent = `${mine.judged} ${w("progress.judged")} · ${mine.left} ${w("progress.left")}`;
  get("meter").max = Math.max(1, mine.judged + mine.left);
  get("meter").value = mine.judged;
}

// --------------------------------------------------------------------------------------------------------- sending

const back = () => desk.say(w("said.back"));

async function submit() {
  if (!desk.task || desk.isSending) return;
  const kind = KINDS[desk.task.kind];
  const { work, task } = desk;
  const rewrite = work.rewrite?.trim();
  const missing = kind.missing(desk)
    ?? (rewrite && task.slots.some(({ text }) => text === work.rewrite) ? w("need.changed") : null);
  if (missing) {
    desk.refuse(missing);
    return;
  }
  await send({ ...kind.decision(desk), rewrite: rewrite ? work.rewrite : null, rationale: work.rationale, tags: work.tags, spans: work.spans });
}

async function send(decision) {
  if (!desk.task || desk.isSending) return;
  if (desk.marks.isOn) desk.marks.end();
  desk.isSending = true;
  desk.node.inert = true; // what is typed from now on would not be sent
  outbox.put({ id: uuid(), assignment: desk.task.id, decision, lead_time_ms: elapsed(), ui_version: UI_VERSION });
  await deliver();
}

/** Send what is in the outbox, with its id, until the server has it; then go on. */
async function deliver() {
  const letter = outbox.get();
  try {
    const answer = await again(() => post("submit", letter), { back });
    outbox.put(null);
    if (desk.task?.id === letter.assignment) desk.keeper.forget();
    tellSaved(desk, answer);
    await turn(answer.next);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (error.code === "no_session") {
      desk.refuse(w("said.session"));
      return; // it stays in the outbox
    }
    outbox.put(null);
    desk.isSending = false;
    if (desk.node) desk.node.inert = false;
    const isElsewhere = ["already_judged", "conflict", "not_found"].includes(error.code);
    desk.refuse(isElsewhere ? w("said.other_window") : w("said.refused", error.message));
    if (isElsewhere || !desk.task) await begin();
  }
}

async function undo() {
  if (desk.isSending) return;
  desk.isSending = true;
  const id = uuid();
  try {
    await desk.keeper.send();
    const answer = await again(() => post("undo", { id }), { back });
    desk.isSending = false;
    if (!answer.undone) {
      desk.refuse(w("said.nothing"));
      return;
    }
    await turn(answer.next);
    desk.say(w("said.undone"));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    desk.isSending = false;
    desk.refuse(w("said.refused", error.message));
  }
}

/** What the keeper of drafts has to say. */
function heard(state) {
  if (state === "kept" || state === "local") {
    note(w(state === "kept" ? "said.draft" : "said.local"));
    if (state === "kept" && !desk.isSending) tellLost(null);
  }
  if (state === "local" && !desk.isSending) {
    tellLost(w("said.lost"));
  } else if (state === "gone" && !desk.isSending) {
    desk.refuse(w("said.other_window"));
    begin();
  } else if (state === "no_session") {
    desk.refuse(w("said.session"));
  }
}

// ------------------------------------------------------------------------------------------------------------ actions

const actions = {
  ...pageActions,
  submit, undo,
  skip: () => dialogs.ask("skip"),
  flag: () => dialogs.ask("flag"),
  tags: () => (desk.task.error_tags.length ? dialogs.tags() : desk.refuse(w("tags.none"))),
  reason: () => write(desk, "reason"),
  rewrite: () => write(desk, "rewrite"),
  mark: () => desk.marks.toggle(),
  next: () => desk.move(1),
  previous: () => desk.move(-1),
  written: () => desk.answers.show(desk.answers.view === "written" ? "rendered" : "written"),
  differences: () => desk.answers.show(desk.answers.view === "differences" ? "rendered" : "differences"),
  unfold: () => desk.answers.unfold(),
  evidence: () => desk.node.classList.toggle("without-evidence"),
  guideline: () => dialogs.guideline(),
  help: () => dialogs.help(),
  keys: () => dialogs.settings(),
  scroll_down: () => desk.answers.scroll(1),
  scroll_up: () => desk.answers.scroll(-1),
  page_down: () => desk.answers.scroll(1, { page: true }),
  page_up: () => desk.answers.scroll(-1, { page: true }),
  progress: async () => {
    await desk.keeper.send();
    location.assign("/progress");
  },
};
const WITHOUT_TASK = new Set(["undo", "guideline", "help", "keys", "progress", ...Object.keys(pageActions)]);

function run(name, button) {
  if (!desk.task && !WITHOUT_TASK.has(name)) return;
  if (desk.isSending && !Object.hasOwn(pageActions, name)) return;
  if (actions[name]) {
    actions[name](button);
    return;
  }
  const letter = /^answer_([a-z])$/.exec(name)?.[1];
  if (letter) {
    if (desk.task.slots.some(({ slot }) => slot === letter)) desk.goTo(letter);
    return;
  }
  KINDS[desk.task.kind].actions[name]?.(desk, button);
  if (preferences.quick && desk.task && !KINDS[desk.task.kind].missing(desk) && isVerdict(name)) submit();
}

/** Whether an action can complete a verdict: a half-written correction or a rewrite that is offered can not. */
const isVerdict = (name) => /^(slightly|better|much|tie|rank_\d|rate_\d+|right|neutral|decline)$/.test(name);

document.addEventListener("keydown", (event) => {
  if (dialogs.current()) {
    dialogs.key(event);
    return;
  }
  if (desk.marks?.isOn && desk.task && !isField(event.target) && !isComposing(event) && !event.ctrlKey && !event.metaKey && !event.altKey) {
    if (desk.marks.key(event)) {
      event.preventDefault();
      return;
    }
  }
  if (isField(event.target)) {
    if (isComposing(event)) return;
    const isDone = event.key === "Enter" && (event.ctrlKey || event.metaKey || event.target.closest(".correction"));
    if (event.key === "Escape" || (isDone && event.target.matches("textarea"))) {
      event.preventDefault();
      leave(desk);
    }
    return;
  }
  const action = actionOf(event, desk.task?.kind ?? null);
  if (!action) return;
  event.preventDefault();
  run(action);
});

async function begin() {
  try {
    if (outbox.get()) {
      await deliver();
      return;
    }
    await turn(await again(() => post("next", { batch: null })));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (error.code === "no_session") location.assign("/");
    desk.refuse(w("said.refused", error.message));
  }
}

learnLayout(document);
listen(run);
begin();
