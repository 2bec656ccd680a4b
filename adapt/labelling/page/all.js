// A list of any number of pictures, of which only those in sight are elements.
import { showPictures } from "./pictures.js";
import { listPictures, Refused } from "./server.js";

const PART = 120; // pictures of a request
const TILE = 104, GAP = 8, CAPTION = 17; // pixels
const OVERSCAN = 2; // rows
const WAIT = 400; // milliseconds between two refreshes of a list that is being used

export class AllPictures {
  /** `box` scrolls, `space` is as high as all pictures, `list` holds those in sight. `onShown` gets the total. */
  constructor(box, space, list, onShown, onProblem) {
    Object.assign(this, { box, space, list, onShown, onProblem });
    this.view = { show: "all", order: "unsure" };
    this.parts = new Map(); // of pictures, by their number
    this.total = 0;
    this.key = "";
    this.asked = 0;
    box.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.draw()).observe(box);
  }

  setView(view) {
    this.view = view;
    this.box.scrollTop = 0;
    this.key = "";
    this.reload();
  }

  /** Ask again for what is shown if the session has changed, now or soon. */
  refresh(session, version) {
    const key = `${session} ${version}`;
    this.session = session;
    if (key === this.key) return;
    this.key = key;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.reload(), this.total ? WAIT : 0);
  }

  reload() {
    this.asked += 1;
    this.waiting = new Set();
    this.stale = true;
    this.draw();
  }

  draw() {
    const across = Math.max(1, Math.floor((this.list.clientWidth + GAP) / (TILE + GAP)));
    const width = (this.list.clientWidth - GAP * (across - 1)) / across;
    const height = width + CAPTION + GAP;
    this.list.style.gridTemplateColumns = `repeat(${across}, minmax(0, 1fr))`;
    this.list.style.gridAutoRows = `${height - GAP}px`;
    this.space.style.height = `${Math.ceil(this.total / across) * height}px`;
    const firstRow = Math.max(0, Math.floor(this.box.scrollTop / height) - OVERSCAN);
    const rows = Math.ceil(this.box.clientHeight / height) + 2 * OVERSCAN;
    const first = firstRow * across;
    const end = this.total ? Math.min(this.total, first + rows * across) : PART;
    for (let part = Math.floor(first / PART); part * PART < end; part += 1) this.ask(part);
    const shown = [];
    for (let place = first; place < Math.min(end, this.total); place += 1) {
      const picture = this.parts.get(Math.floor(place / PART))?.[place % PART];
      if (picture) shown.push(picture);
    }
    this.list.style.top = `${firstRow * height}px`;
    showPictures(this.list, shown, this.session ?? "");
    this.onShown(this.total);
  }

  async ask(part) {
    if (this.waiting?.has(part) || (!this.stale && this.parts.has(part))) return;
    const asked = this.asked;
    this.waiting ??= new Set();
    this.waiting.add(part);
    try {
      const found = await listPictures(this.view, part * PART, PART);
      if (asked !== this.asked) return;
      if (this.stale) { // the first answer after a change: nothing of before is shown with it
        this.parts.clear();
        this.stale = false;
        this.waiting = new Set([part]);
      }
      this.parts.set(part, found.pictures);
      this.total = found.total;
      this.draw();
    } catch (error) {
      if (asked === this.asked && error instanceof Refused) this.onProblem(error.message);
    }
  }
}
