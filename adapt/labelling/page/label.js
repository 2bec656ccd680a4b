// The page of a labelling session: what is selected, what keys and clicks do, and what the server's state looks like.
import { drawCurve } from "./chart.js";
import { AllPictures } from "./all.js";
import { make, percent, showPictures } from "./pictures.js";
import * as server from "./server.js";

const SLOTS = 12;
const $ = (id) => document.getElementById(id);

let state = null; // as the server gave it
let slots = []; // numbers of the pictures in "Label these next", which keep their places
let current = null; // the picture that keys act on: its element
let anchor = null; // the one before a click, where a range begins
const selection = new Set(); // numbers
const pending = new Map(); // number → class, of requests under way
let queue = Promise.resolve(); // requests, one after the other

const all = new AllPictures($("all"), $("all-space"), $("all-pictures"), (total) => {
  $("total").textContent = `${total.toLocaleString()} ${total === 1 ? "picture" : "pictures"}`;
  markSelected();
}, showProblem);

// Requests

function showProblem(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

/** Send a request after those before it, and show the state that it answers. */
function send(ask, done = () => {}, { own = true } = {}) {
  queue = queue.then(async () => {
    try {
      const answer = await ask();
      if (own) showProblem("");
      done();
      show(answer, { own });
    } catch (error) {
      done();
      if (error instanceof server.Refused) showProblem(error.message);
      else showLost(true);
      if (state) show(state);
    }
  });
  return queue;
}

function giveClass(name, numbers = targets()) {
  if (!numbers.length) {
    showProblem("Select a picture first.");
    return;
  }
  for (const number of numbers) pending.set(number, name);
  selection.clear();
  moveOn(numbers);
  send(() => server.label(numbers, name, slots), () => numbers.forEach((number) => pending.delete(number)));
}

function showLost(lost) {
  $("lost").hidden = !lost;
}

// Selection

function targets() {
  if (selection.size) return [...selection];
  return current?.isConnected ? [Number(current.dataset.number)] : [];
}

function setCurrent(element, { focus = true } = {}) {
  current?.classList.remove("current");
  current = element ?? null;
  if (!current) return;
  current.classList.add("current");
  if (focus) current.focus({ preventScroll: true });
  if (focus) current.scrollIntoView({ block: "nearest", inline: "nearest" });
}

/** Move from the pictures that just got a class to the next one in the same list. */
function moveOn(numbers) {
  if (!current || !numbers.includes(Number(current.dataset.number))) return;
  const elements = [...current.parentElement.children];
  const place = elements.indexOf(current);
  const next = [...elements.slice(place + 1), ...elements.slice(0, place)]
    .find((element) => !pending.has(Number(element.dataset.number)));
  if (next) setCurrent(next);
}

function markSelected() {
  for (const element of document.querySelectorAll(".picture")) {
    const number = Number(element.dataset.number);
    element.setAttribute("aria-selected", selection.has(number));
    element.classList.toggle("pending", pending.has(number));
    element.classList.toggle("current", element === current);
  }
  const count = selection.size;
  $("selected").textContent = count ? `${count} selected; Esc selects none` : "";
}

function toggle(element, { range = false } = {}) {
  const number = Number(element.dataset.number);
  if (range && anchor?.parentElement === element.parentElement) {
    const elements = [...element.parentElement.children];
    const [from, to] = [elements.indexOf(anchor), elements.indexOf(element)].sort((a, b) => a - b);
    for (const each of elements.slice(from, to + 1)) selection.add(Number(each.dataset.number));
  } else if (!selection.delete(number)) {
    selection.add(number);
  }
  setCurrent(element);
  markSelected();
}

// What the server's state looks like

function show(answer, { own = false } = {}) {
  if (state && state.session !== answer.session) {
    location.reload(); // the server was started again, and may number the pictures differently
    return;
  }
  if (state && answer.version < state.version) return;
  const before = place(current);
  state = answer;
  server.setSession(state.session);
  showHeader();
  showClasses();
  showSuggestions(own);
  showColumns();
  showEstimate();
  showExport();
  showViews();
  restoreCurrent(before, own);
  markSelected();
}

/** Return where an element is: its list, its index there, and the number of its picture. */
function place(element) {
  const list = element?.parentElement;
  return list && { list, index: [...list.children].indexOf(element), number: element.dataset.number };
}

/**
 * Frame the same picture as before. Where it has left its list by an action of this page, frame the one that took its
 * place; by an action elsewhere, frame none, so that a key under way does not hit another picture.
 */
function restoreCurrent(before, own) {
  if (current?.isConnected && current.dataset.number === before?.number) return;
  const busy = document.activeElement?.matches?.("input, select, dialog *");
  if (!before) {
    if (!current?.isConnected) setCurrent($("suggestions").children[0], { focus: !busy });
    return;
  }
  const same = [...before.list.children].find((element) => element.dataset.number === before.number);
  const next = before.list.children[Math.min(before.index, before.list.children.length - 1)];
  if (same) setCurrent(same, { focus: !busy });
  else if (own && before.list.isConnected) setCurrent(next, { focus: !busy });
  else setCurrent(null);
}

function showHeader() {
  const parts = [`${state.labelled.toLocaleString()} labelled`];
  if (state.embedding) {
    parts.push(`${state.embedded.toLocaleString()} of ${state.pictures.toLocaleString()} pictures read`);
  } else {
    parts.push(`${state.pictures.toLocaleString()} pictures`);
  }
  if (state.unreadable) parts.push(`${state.unreadable.toLocaleString()} cannot be read`);
  $("progress").textContent = parts.join(" · ");
  $("undo").disabled = !state.undo;
  $("undo").title = state.undo ? `Take back: ${state.undo}` : "";
  if (state.problem) showProblem(`Reading the pictures stopped: ${state.problem}`);
}

function showClasses() {
  const rows = state.classes.map(({ name, labelled }, place) => {
    const button = make("button", { type: "button", title: `Give ${name}` });
    if (place < 9) button.append(make("kbd", { textContent: place + 1 }), " ");
    button.append(make("span", { className: "name", textContent: name }), ` (${labelled})`);
    button.onclick = () => giveClass(name);
    const row = make("li", {}, button);
    if (!labelled) {
      const remove = make("button", { type: "button", className: "remove", textContent: "×", title: `Remove class ${name}` });
      remove.setAttribute("aria-label", `Remove class ${name}`);
      remove.onclick = () => send(() => server.removeClass(name, slots));
      row.append(remove);
    }
    return row;
  });
  $("classes").replaceChildren(...rows);
}

/** Show the suggestions: each picture keeps its place until it is labelled, the framed one also if others label it. */
function showSuggestions(own) {
  const byNumber = new Map([...state.kept, ...state.suggestions].map((picture) => [picture.number, picture]));
  const reasons = new Map(state.suggestions.map((picture) => [picture.number, picture.reason]));
  const isOpen = (number) => byNumber.has(number) && !byNumber.get(number).label && !pending.has(number);
  const isFramed = (number) => current?.parentElement === $("suggestions") && current.dataset.number === `${number}`;
  const stays = (number) => isOpen(number) || pending.has(number) || (!own && isFramed(number) && byNumber.has(number));
  const fresh = state.suggestions.map((picture) => picture.number)
    .filter((number) => !slots.includes(number) && isOpen(number));
  slots = slots.map((number) => (stays(number) ? number : fresh.shift())).filter((number) => number !== undefined);
  while (slots.length < SLOTS && fresh.length) slots.push(fresh.shift());
  const pictures = slots.map((number) => {
    const picture = { ...byNumber.get(number), number, reason: reasons.get(number) ?? byNumber.get(number)?.reason };
    return pending.has(number) ? { ...picture, label: pending.get(number) } : picture;
  });
  showPictures($("suggestions"), pictures, state.session);
  const empty = !slots.length;
  $("no-suggestions").hidden = !empty;
  $("no-suggestions").textContent = state.embedding ? "Reading the first pictures …" : "Every picture has a label.";
}

function showColumns() {
  $("no-columns").hidden = state.columns.length > 0;
  const known = new Map([...$("columns").children].map((column) => [column.dataset.name, column]));
  const columns = state.columns.map(({ name, count, sure, unsure }) => {
    const key = JSON.stringify(name);
    const column = known.get(key) ?? newColumn(key);
    column.querySelector("h3").textContent = name ?? "Far from everything";
    column.querySelector("p").textContent = `${count.toLocaleString()} ${count === 1 ? "picture" : "pictures"}`;
    const [first, second] = column.querySelectorAll("h4");
    first.textContent = name === null ? "Farthest" : "Surest";
    second.textContent = "Least sure";
    first.hidden = !sure.length;
    second.hidden = !unsure.length;
    const [surest, unsurest] = column.querySelectorAll(".pictures");
    showPictures(surest, sure, state.session, name);
    showPictures(unsurest, unsure, state.session, name);
    return column;
  });
  if (columns.some((column, place) => $("columns").children[place] !== column) || columns.length !== $("columns").children.length) {
    $("columns").replaceChildren(...columns);
  }
}

function newColumn(key) {
  const list = (label) => {
    const element = make("div", { className: "pictures" });
    element.setAttribute("role", "listbox");
    element.setAttribute("aria-label", label);
    return element;
  };
  const column = make("section", { className: "column" }, make("h3"), make("p", { className: "soft" }),
    make("h4"), list("Surest"), make("h4"), list("Least sure"));
  column.dataset.name = key;
  return column;
}

function showEstimate() {
  const { estimate, method } = state;
  if (estimate) {
    $("estimate").replaceChildren(
      make("b", { textContent: percent(estimate.accuracy) }),
      ` (${percent(estimate.low)} to ${percent(estimate.high)}), ${estimate.how}`,
    );
  } else {
    $("estimate").textContent = `Not known until five random pictures are labelled (${state.checks} so far).`;
  }
  drawCurve($("curve"), state.curve);
  $("method").textContent = method
    ? `Method: ${method.name}${method.settings ? ` (${method.settings})` : ""}, ${method.why}.`
    : "";
}

function showViews() {
  const options = [["all", "all"], ["unlabelled", "without label"], ["labelled", "with label"]];
  for (const { name } of state.classes) options.push([`class:${name}`, name]);
  if (state.columns.length) options.push(["far", "far from everything"]);
  if (state.unreadable) options.push(["unreadable", "cannot be read"]);
  const chosen = $("show").value || "all";
  const key = JSON.stringify(options);
  if ($("show").dataset.key !== key) {
    $("show").dataset.key = key;
    $("show").replaceChildren(...options.map(([value, text]) => make("option", { value, textContent: text })));
    $("show").value = options.some(([value]) => value === chosen) ? chosen : "all";
  }
  $("text-label").hidden = !state.searchable;
  all.refresh(state.session, state.version);
}

function showExport() {
  const { export: found } = state;
  const place = $("export-state");
  const running = found.state === "running";
  for (const id of ["export-copy", "export-link"]) $(id).disabled = running;
  if (found.state === "failed") place.replaceChildren(make("p", { className: "problem", textContent: found.problem }));
  else if (running) place.replaceChildren(make("p", { textContent: `${found.step}: ${found.done.toLocaleString()} of ${found.total.toLocaleString()}` }));
  else if (found.state === "done") {
    const files = Object.entries(found.files).map(([file, text]) =>
      make("li", {}, make("code", { textContent: file }), ` ${text}`));
    const without = found.left_out ? ` ${found.left_out.toLocaleString()} pictures were not read, or not yet, and are left out.` : "";
    const left = found.alone ? ` ${found.alone} files there were left alone; they are not of this session.` : "";
    place.replaceChildren(
      make("p", {}, `${found.pictures.toLocaleString()} pictures, ${found.labelled.toLocaleString()} of them labelled, are in `,
        make("code", { textContent: found.out }), `.${without}${left}`),
      make("ul", {}, ...files),
    );
  } else place.replaceChildren();
}

// Views of all pictures

function setView(view, description = "") {
  $("likeness").hidden = !description;
  $("likeness-text").textContent = description;
  all.setView(view);
}

function chosenView() {
  return { show: $("show").value || "all", order: $("order").value };
}

function showSimilar() {
  const [number] = targets();
  if (number === undefined) return;
  setView({ ...chosenView(), show: "all", similar_to: number }, `like ${current?.querySelector("img")?.alt ?? "the picture"}`);
  $("all-title").scrollIntoView({ behavior: "smooth" });
}

function showLarge(element) {
  $("view-picture").src = `large/${element.dataset.number}?${state.session}`;
  $("view-name").textContent = element.querySelector("img").alt;
  $("view").showModal();
}

// Keys and clicks

function move(key) {
  if (!current?.isConnected) {
    setCurrent(document.querySelector(".picture"));
    return;
  }
  const list = current.parentElement;
  const elements = [...list.children];
  const across = getComputedStyle(list).gridTemplateColumns.split(" ").length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across }[key];
  const next = elements[elements.indexOf(current) + step];
  if (next) setCurrent(next);
  else {
    const everything = [...document.querySelectorAll(".picture")];
    const place = everything.indexOf(step > 0 ? elements.at(-1) : elements[0]);
    setCurrent(everything[place + Math.sign(step)] ?? current);
  }
}

function otherPictures() {
  const others = state.suggestions.map((picture) => picture.number).filter((number) => !slots.includes(number));
  slots = others.slice(0, SLOTS);
  showSuggestions(true);
  setCurrent($("suggestions").children[0]);
  markSelected();
}

function acceptGuess() {
  const guesses = new Map();
  for (const number of targets()) {
    const guess = document.querySelector(`.picture[data-number="${number}"][data-guess]:not(.labelled)`)?.dataset.guess;
    if (guess) guesses.set(guess, [...(guesses.get(guess) ?? []), number]);
  }
  if (!guesses.size) showProblem("There is no guess for this picture, or it has a label. Press the number of a class.");
  for (const [guess, numbers] of guesses) giveClass(guess, numbers);
}

const KEYS = {
  Enter: acceptGuess,
  " ": () => current?.isConnected && toggle(current),
  Escape: () => { selection.clear(); markSelected(); },
  0: () => giveClass(null),
  u: () => $("undo").disabled || send(() => server.undo(slots)),
  n: () => $("class-name").focus(),
  s: showSimilar,
  v: () => current?.isConnected && showLarge(current),
  r: otherPictures,
  "/": () => { if (state.searchable) $("text").focus(); },
};

document.addEventListener("keydown", (event) => {
  if (!state || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.matches("input, select")) {
    if (event.key === "Escape") { event.target.blur(); current?.focus({ preventScroll: true }); }
    return;
  }
  if (event.repeat && !event.key.startsWith("Arrow")) return; // a key that is held
  if (event.target.matches("button, summary") && ["Enter", " "].includes(event.key)) return;
  if (event.key.startsWith("Arrow")) {
    const before = current;
    move(event.key);
    if (event.shiftKey && before && current !== before) {
      selection.add(Number(before.dataset.number)).add(Number(current.dataset.number));
      markSelected();
    }
  } else if (/^[1-9]$/.test(event.key)) {
    const chosen = state.classes[Number(event.key) - 1];
    if (chosen) giveClass(chosen.name);
  } else if (KEYS[event.key]) KEYS[event.key]();
  else return;
  event.preventDefault();
});

document.addEventListener("mousedown", () => { anchor = current; }); // before the focus moves
document.addEventListener("click", (event) => {
  const element = event.target.closest?.(".picture");
  if (!element) return;
  if (event.shiftKey || event.ctrlKey || event.metaKey) {
    toggle(element, { range: event.shiftKey });
  } else {
    selection.clear();
    setCurrent(element);
    markSelected();
  }
});
document.addEventListener("dblclick", (event) => {
  const element = event.target.closest?.(".picture");
  if (element) showLarge(element);
});
document.addEventListener("focusin", (event) => {
  if (event.target.matches?.(".picture") && event.target !== current) setCurrent(event.target, { focus: false });
});

$("new-class").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = $("class-name").value.trim();
  if (!name) return;
  $("class-name").value = "";
  $("class-name").blur();
  current?.focus({ preventScroll: true });
  giveClass(name);
});
$("undo").onclick = () => send(() => server.undo(slots));
$("unlabel").onclick = () => giveClass(null);
$("select").onclick = () => current?.isConnected && toggle(current);
$("similar").onclick = showSimilar;
$("fresh").onclick = otherPictures;
$("open-export").onclick = () => $("export").showModal();
for (const placement of ["copy", "link"]) $(`export-${placement}`).onclick = () => send(() => server.startExport(placement, slots));
$("show").onchange = $("order").onchange = () => setView(chosenView());
$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  setView(text ? { ...chosenView(), text } : chosenView(), text && `like “${text}”`);
});
$("text").addEventListener("search", () => { if (!$("text").value) setView(chosenView()); });
$("end-likeness").onclick = () => { $("text").value = ""; setView(chosenView()); };

server.watch((session, version, exports) => {
  if (!state || session !== state.session || version > state.version || exports !== state.exports) {
    send(() => server.getState(slots), () => {}, { own: false });
  }
}, showLost);
