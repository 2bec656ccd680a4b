// The page of a labelling session: requests, keys and buttons.
import { AllPictures } from "./all.js";
import { showClasses, showColumns, showEstimate, showExport, showHeader, showViews } from "./panels.js";
import {
  current, markSelected, move, moveOn, pending, place, restoreCurrent, selection, selectNone, setCurrent, targets, toggle,
} from "./selection.js";
import * as server from "./server.js";
import { showOthers, showSuggestions, slots } from "./suggestions.js";

const $ = (id) => document.getElementById(id);

let state = null; // as the server gave it
let renamed = ""; // the class that the dialog renames
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

function showLost(lost) {
  $("lost").hidden = !lost;
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

/** Give pictures a class, one that exists or a new one, or none with null. */
function giveClass(name, numbers = targets(), { isNew = false } = {}) {
  if (!numbers.length) {
    showProblem("Select a picture first.");
    return;
  }
  for (const number of numbers) pending.set(number, name);
  selection.clear();
  moveOn(numbers);
  const ask = () => server.label(numbers, name, { existing: name !== null && !isNew }, slots);
  send(ask, () => numbers.forEach((number) => pending.delete(number)));
}

/** Show a state of the server, all of it at once: the parts of the page never are of two states. */
function show(answer, { own = false } = {}) {
  if (state && state.session !== answer.session) {
    location.reload(); // the server was started again, and may number the pictures differently
    return;
  }
  if (state && answer.version < state.version) return;
  const before = place(current);
  state = answer;
  server.setSession(state.session);
  showHeader(state);
  if (state.problem) showProblem(`Reading the pictures stopped: ${state.problem}`);
  showClasses(state, {
    onGive: (name) => giveClass(name),
    onRename: askForName,
    onRemove: (name) => send(() => server.removeClass(name, slots)),
  });
  showSuggestions(state, own);
  showColumns(state);
  showEstimate(state);
  showExport(state.export);
  if (showViews(state)) setView(chosenView());
  all.refresh(state.session, state.version);
  restoreCurrent(before, own);
  markSelected();
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

// Keys

function otherPictures() {
  showOthers(state);
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
  Escape: selectNone,
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
  const row = event.target.closest?.("#classes li");
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
  } else if (event.key === "F2" && row) askForName(row.dataset.name);
  else if (KEYS[event.key]) KEYS[event.key]();
  else return;
  event.preventDefault();
});

document.addEventListener("dblclick", (event) => {
  const element = event.target.closest?.(".picture");
  if (element) showLarge(element);
});

// Buttons and forms

function askForName(name) {
  renamed = name;
  $("rename-old").textContent = name;
  $("new-name").value = name;
  $("rename").showModal();
  $("new-name").select();
}

$("rename-form").addEventListener("submit", (event) => {
  event.preventDefault();
  $("rename").close();
  const [name, to] = [renamed, $("new-name").value.trim()];
  if (to && to !== name) send(() => server.renameClass(name, to, slots));
});
$("rename").addEventListener("close", () => current?.focus({ preventScroll: true }));
$("cancel-rename").onclick = () => $("rename").close();
$("new-class").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = $("class-name").value.trim();
  if (!name) return;
  $("class-name").value = "";
  $("class-name").blur();
  current?.focus({ preventScroll: true });
  giveClass(name, targets(), { isNew: true });
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
