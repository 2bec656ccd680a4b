// The pictures in "Label these next".
import { showPictures } from "./pictures.js";
import { current, pending } from "./selection.js";

const SLOTS = 12;
const $ = (id) => document.getElementById(id);

export let slots = []; // numbers of the pictures, which keep their places

/** Show the suggestions: each picture keeps its place until it is labelled, the framed one also if others label it. */
export function showSuggestions(state, own) {
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

/** Show the newest suggestions. */
export function showOthers(state) {
  const others = state.suggestions.map((picture) => picture.number).filter((number) => !slots.includes(number));
  slots = others.slice(0, SLOTS);
  showSuggestions(state, true);
}
