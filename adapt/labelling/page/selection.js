// The framed picture, which keys act on, the selected ones, and those that get a class by a request under way.

const $ = (id) => document.getElementById(id);

export let current = null; // the framed picture: its element
export const selection = new Set(); // numbers
export const pending = new Map(); // number → class
let anchor = null; // the picture that was framed before a click, where a range begins

/** Return the numbers of the pictures to label: the selected ones, or the framed one. */
export function targets() {
  if (selection.size) return [...selection];
  return current?.isConnected ? [Number(current.dataset.number)] : [];
}

export function setCurrent(element, { focus = true } = {}) {
  current?.classList.remove("current");
  current = element ?? null;
  if (!current) return;
  current.classList.add("current");
  if (focus) current.focus({ preventScroll: true });
  if (focus) current.scrollIntoView({ block: "nearest", inline: "nearest" });
}

/** Move from the pictures that just got a class to the next one in the same list. */
export function moveOn(numbers) {
  if (!current || !numbers.includes(Number(current.dataset.number))) return;
  const elements = [...current.parentElement.children];
  const place = elements.indexOf(current);
  const next = [...elements.slice(place + 1), ...elements.slice(0, place)]
    .find((element) => !pending.has(Number(element.dataset.number)));
  if (next) setCurrent(next);
}

export function markSelected() {
  for (const element of document.querySelectorAll(".picture")) {
    const number = Number(element.dataset.number);
    element.setAttribute("aria-selected", selection.has(number));
    element.classList.toggle("pending", pending.has(number));
    element.classList.toggle("current", element === current);
  }
  const count = selection.size;
  $("selected").textContent = count ? `${count} selected; Esc selects none` : "";
}

export function toggle(element, { range = false } = {}) {
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

export function selectNone() {
  selection.clear();
  markSelected();
}

/** Return where an element is: its list, its index there, and the number of its picture. */
export function place(element) {
  const list = element?.parentElement;
  return list && { list, index: [...list.children].indexOf(element), number: element.dataset.number };
}

/**
 * Frame the same picture as before. Where it has left its list by an action of this page, frame the one that took its
 * place; by an action elsewhere, frame none, so that a key under way does not hit another picture.
 */
export function restoreCurrent(before, own) {
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

/** Move the frame by an arrow key. */
export function move(key) {
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
document.addEventListener("focusin", (event) => {
  if (event.target.matches?.(".picture") && event.target !== current) setCurrent(event.target, { focus: false });
});
