// Erroneous passages: marked in the text as it was written, with the keyboard or the pointer.
//
// A place in the page is told as a place in the text: code points from its beginning. A character that is shown by its
// code point stands for one.

import { tagWord, w } from "./page.js";
import { codeOf, keysNow } from "./keys.js";

const points = (text) => [...text].length;
const STAND_IN = "\ufffc"; // one character, for one that is shown by its code point

/** The written text of one answer, as far as it is unfolded, as one string with the way back to the page. */
class Written {
  constructor(answer) {
    this.text = "";
    this.pieces = [];
    for (const element of answer.querySelectorAll(".written[data-start]")) {
      let at = Number(element.dataset.start);
      const walk = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
      for (let node = walk.nextNode(); node; node = walk.nextNode()) {
        const atomic = node.parentElement.classList.contains("char");
        const text = atomic ? STAND_IN : node.data;
        this.pieces.push({ node, atomic, text, units: this.text.length, point: at });
        this.text += text;
        at += points(text);
      }
    }
  }

  /** Code points before a place in `text`, counted from the answer's beginning. */
  point(units) {
    const piece = this.pieces.findLast((each) => each.units <= units) ?? this.pieces[0];
    return piece.point + points(piece.text.slice(0, units - piece.units));
  }

  /** The place in `text` of a boundary in the page, or null. */
  units(node, offset) {
    const piece = this.pieces.find((each) => each.node === node);
    if (piece) return piece.units + (piece.atomic ? Number(offset > 0) : offset);
    const next = this.pieces.find((each) => node.childNodes[offset]?.contains(each.node));
    return next?.units ?? null;
  }

  /** The place in `text` of a code point, or null where that part is folded. */
  unitsOfPoint(point) {
    const piece = this.pieces.findLast((each) => each.point <= point);
    const into = [...(piece?.text ?? "")].slice(0, point - (piece?.point ?? 0)).join("").length;
    return piece && point - piece.point <= points(piece.text) ? piece.units + into : null;
  }

  range(start, end) {
    const range = document.createRange();
    const first = this.pieces.findLast((each) => each.units <= start);
    const last = this.pieces.findLast((each) => each.units < end);
    range.setStart(first.node, first.atomic ? 0 : start - first.units);
    range.setEnd(last.node, last.atomic ? last.node.data.length : end - last.units);
    return range;
  }

  words(language) {
    const segmenter = new Intl.Segmenter(language ?? undefined, { granularity: "word" });
    return [...segmenter.segment(this.text)].filter(({ segment }) => segment.trim())
      .map(({ index, segment }) => [index, index + segment.length]);
  }
}

export class Marks {
  constructor(desk) {
    this.desk = desk;
    this.isOn = false;
    this.hint = document.createElement("p");
    this.hint.className = "hint marking";
    this.hint.hidden = true;
    desk.node.querySelector(".decision").prepend(this.hint);
  }

  answer = () => this.desk.node.querySelector(`.answer[data-slot="${this.slot}"]`);

  /** Start, end, or mark what a pointer has selected. */
  async toggle() {
    if (this.isOn) {
      this.end();
    } else if (!this.markSelection()) {
      await this.begin(this.desk.current());
    }
  }

  /** Marks the page's selection; false where there is none in an answer. */
  markSelection() {
    const selection = getSelection();
    const answer = selection.anchorNode?.parentElement?.closest(".answer");
    if (!answer || selection.isCollapsed) return false;
    const [slot, range, written] = [answer.dataset.slot, selection.getRangeAt(0), new Written(answer)];
    let [start, end] = [written.units(range.startContainer, range.startOffset), written.units(range.endContainer, range.endOffset)];
    if (start === null || end === null) {
      const text = selection.toString().trim(); // of the rendered text: it has to be found in the one as written
      start = written.text.indexOf(text);
      end = start + text.length;
      if (!text || start < 0 || written.text.indexOf(text, start + 1) >= 0) {
        this.desk.refuse(w("marks.not_found"));
        return false;
      }
    }
    if (end <= start) return false;
    this.add(slot, written, start, end, null);
    selection.removeAllRanges();
    return true;
  }

  async begin(slot) {
    this.before = this.desk.answers.view;
    await this.desk.answers.show("written");
    this.isOn = true;
    this.enter(slot);
    const tags = this.desk.task.error_tags.slice(0, 9).map((tag, i) => `${i + 1} ${tagWord(tag)}`);
    this.hint.textContent = w("marks.how", tags.join(" · "));
    this.hint.hidden = false;
    this.desk.node.classList.add("marks-on");
    this.desk.tell(this.hint.textContent);
  }

  enter(slot) {
    this.slot = slot;
    this.desk.mark(slot);
    this.written = new Written(this.answer());
    this.words = this.written.words(this.desk.task.language);
    [this.at, this.anchor] = [0, 0];
    this.select();
  }

  end() {
    this.isOn = false;
    this.hint.hidden = true;
    this.desk.node.classList.remove("marks-on");
    getSelection().removeAllRanges();
    this.desk.answers.show(this.before === "differences" ? "rendered" : this.before);
  }

  /** [start, end) in the written text of what is selected. */
  bounds() {
    const [first, last] = [Math.min(this.at, this.anchor), Math.max(this.at, this.anchor)];
    return this.words.length ? [this.words[first][0], this.words[last][1]] : [0, 0];
  }

  select() {
    if (!this.words.length) return;
    const range = this.written.range(...this.bounds());
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    const caret = this.written.range(...this.words[this.at]);
    (caret.startContainer.parentElement ?? this.answer()).closest(".written").scrollIntoView({ block: "nearest" });
    const [box, source] = [caret.getBoundingClientRect(), this.answer().querySelector(".source")];
    const frame = source.getBoundingClientRect();
    if (box.top < frame.top + 20) source.scrollTop -= frame.top + 40 - box.top;
    if (box.bottom > frame.bottom - 20) source.scrollTop += box.bottom - frame.bottom + 40;
  }

  /** A key while passages are marked; true when it was ours. */
  key(event) {
    const code = codeOf(event);
    const [bare, extend] = [code.replace(/^Shift\+/, ""), code.startsWith("Shift+")];
    const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 8, ArrowUp: -8 }[bare];
    if (by) {
      this.at = Math.min(Math.max(this.at + by, 0), this.words.length - 1);
      if (!extend) this.anchor = this.at;
      this.select();
    } else if (bare === "Escape" || code === keysNow().mark) {
      this.end();
    } else if (bare === "Enter" || /^Digit[1-9]$/.test(bare)) {
      if (event.repeat || !this.words.length) return true;
      const tag = bare === "Enter" ? null : this.desk.task.error_tags[Number(bare.slice(5)) - 1];
      if (tag !== undefined) this.add(this.slot, this.written, ...this.bounds(), tag);
    } else if (bare === "Backspace" || bare === "Delete") {
      const point = this.written.point(this.bounds()[0]);
      this.remove(this.desk.work.spans.findIndex((span) => span.slot === this.slot && span.start <= point && point < span.end));
    } else if (bare === "Tab") {
      const slots = this.desk.task.slots.map(({ slot }) => slot);
      this.enter(slots[(slots.indexOf(this.slot) + (extend ? -1 : 1) + slots.length) % slots.length]);
    } else {
      return false;
    }
    return true;
  }

  add(slot, written, start, end, tag) {
    const span = { slot, start: written.point(start), end: written.point(end), tag, note: "" };
    const { work } = this.desk;
    work.spans = [...work.spans.filter((each) => each.slot !== slot || each.end <= span.start || each.start >= span.end), span];
    this.desk.changed();
    this.desk.say(w("said.marked", written.text.slice(start, end)));
  }

  remove(index) {
    if (index < 0) return;
    this.desk.work.spans = this.desk.work.spans.filter((_, i) => i !== index);
    this.desk.changed();
    this.desk.say(w("said.removed"));
  }

  /** Write the list under each answer, and paint the passages in the text as written. */
  show() {
    const painted = [];
    for (const answer of this.desk.node.querySelectorAll(".answer")) {
      const box = answer.querySelector(".marks");
      const spans = this.desk.work.spans.map((span, index) => ({ ...span, index })).filter(({ slot }) => slot === answer.dataset.slot);
      box.hidden = !spans.length;
      const written = spans.length ? new Written(answer) : null;
      box.querySelector("ul").replaceChildren(...spans.map((span) => {
        const [start, end] = [written.unitsOfPoint(span.start), written.unitsOfPoint(span.end)];
        if (start !== null && end !== null) painted.push(written.range(start, end));
        return this.item(span, start === null || end === null ? "…" : written.text.slice(start, end));
      }));
    }
    if (CSS.highlights && window.Highlight) CSS.highlights.set("passages", new Highlight(...painted));
  }

  item(span, text) {
    const [item, quote, tag, button] = ["li", "q", "span", "button"].map((name) => document.createElement(name));
    quote.textContent = text.length > 80 ? `${text.slice(0, 80)}…` : text;
    tag.textContent = span.tag ? tagWord(span.tag) : "";
    tag.className = "tag";
    [button.type, button.className, button.textContent] = ["button", "quiet", "×"];
    button.setAttribute("aria-label", `${w("marks.remove")}: ${quote.textContent}`);
    button.addEventListener("click", () => this.remove(span.index));
    item.append(quote, ...(span.tag ? [tag] : []), button);
    return item;
  }
}
