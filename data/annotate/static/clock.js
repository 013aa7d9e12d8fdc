// How long a task has been in sight: the time behind other windows does not count.

let spent = 0;
let since = null;
const now = () => (document.visibilityState === "visible" ? performance.now() : null);

/** Start from so many milliseconds. */
export function startClock(ms) {
  [spent, since] = [ms, now()];
}

/** Milliseconds so far. */
export function elapsed() {
  if (since !== null) spent += performance.now() - since;
  since = now();
  return Math.round(spent);
}
