// How the answers are looked at: as Markdown, as written, or with their differences; folded parts; scrolling together.

import { html, json, w } from "./page.js";

const STEP_PX = 90;
const PAGE = 0.85; // of what is seen

/** One task's answers. `view` is "rendered", "written" or "differences". */
export class Answers {
  constructor(node, task, refuse) {
    [this.node, this.task, this.refuse, this.view] = [node, task, refuse, "rendered"];
    this.sources = [...node.querySelectorAll(".answer > .source, .answer > .steps")];
    for (const part of node.querySelectorAll("details.part")) {
      part.addEventListener("toggle", () => part.open && this.load(part));
    }
    for (const source of this.sources) {
      source.addEventListener("scroll", () => this.follow(source), { passive: true });
    }
  }

  /** Fetch a folded part, once. */
  async load(part) {
    const content = part.querySelector(".content");
    if (content.dataset.is === "here" || part.dataset.is === "loading") return;
    part.dataset.is = "loading";
    try {
      content.innerHTML = await html(part.dataset.src);
      content.dataset.is = "here";
      this.apply(content);
    } catch (error) {
      part.open = false;
      this.refuse(w("said.refused", error.message));
    } finally {
      content.removeAttribute("aria-busy");
      delete part.dataset.is;
    }
  }

  /** Unfold the next folded part of each answer, or fold them all again where none is left. */
  unfold() {
    const all = [...this.node.querySelectorAll("details.part")];
    const next = this.sources.map((source) => source.querySelector("details.part:not([open])")).filter(Boolean);
    for (const part of next.length ? next : all) part.open = next.length > 0;
  }

  async show(view) {
    if (view === "differences" && !this.differences) {
      try {
        this.differences = await json(`/task/${this.task.id}/differences`);
      } catch (error) {
        this.refuse(w("said.refused", error.message));
        return;
      }
      for (const [slot, text] of Object.entries(this.differences.slots)) {
        this.node.querySelector(`[data-slot="${slot}"] .differences`).innerHTML = text;
      }
      if (this.differences.cut) this.refuse(w("differences.cut", this.differences.cut.toLocaleString()));
    }
    this.view = view;
    this.apply(this.node);
    for (const name of ["written", "differences"]) {
      this.node.querySelector(`.decision [data-action="${name}"]`)?.setAttribute("aria-pressed", view === name);
    }
  }

  /** The view, in all of the task or in a part that has come. */
  apply(root) {
    for (const each of root.querySelectorAll(".answer .rendered")) each.hidden = this.view !== "rendered";
    for (const each of root.querySelectorAll(".answer .written")) each.hidden = this.view !== "written";
    for (const each of root.querySelectorAll(".source > .differences")) each.hidden = this.view !== "differences";
    for (const each of root.querySelectorAll(".source > .part")) each.hidden = this.view === "differences";
  }

  /** The others scroll along, each by the same share of its length. */
  follow(source) {
    if (this.leading && this.leading !== source) return;
    this.leading = source;
    clearTimeout(this.released);
    this.released = setTimeout(() => { this.leading = null; }, 120);
    const share = source.scrollTop / Math.max(1, source.scrollHeight - source.clientHeight);
    for (const other of this.sources) {
      if (other !== source) other.scrollTop = share * (other.scrollHeight - other.clientHeight);
    }
  }

  /** Scroll by steps or pages: the longest answer leads; where none scrolls by itself, the page does. */
  scroll(direction, { page = false } = {}) {
    const long = (source) => source.scrollHeight - source.clientHeight;
    const leader = this.sources.filter((source) => long(source) > 4).sort((a, b) => long(b) - long(a))[0];
    if (leader) leader.scrollTop += direction * (page ? PAGE * leader.clientHeight : STEP_PX);
    else window.scrollBy(0, direction * (page ? PAGE * window.innerHeight : STEP_PX));
  }
}
