"use strict";
// Selection, sorting and filtering with their state in the address, and the values of charts under the pointer.
document.documentElement.classList.add("js");

// The address is #anchor?state, with the state as in a query: a file has no server that could read a query.
function readAddress() {
  const [anchor, state] = location.hash.slice(1).split("?");
  return { anchor, state: state === undefined ? null : new URLSearchParams(state) };
}
let state = readAddress().state || new URLSearchParams();
let anchor = readAddress().anchor;
function store(key, value) {
  if (value) state.set(key, value);
  else state.delete(key);
  writeAddress();
}
function writeAddress() {
  const text = state.toString();
  history.replaceState(null, "", `#${anchor}${text ? `?${text}` : ""}`);
}

// The sections of the selected dataset and method.
const choices = ["dataset", "method"].map((kind) => document.getElementById(kind)).filter(Boolean);
function showSelected() {
  for (const part of document.querySelectorAll("section, #contents li")) {
    part.hidden = choices.some((choice) => choice.id in part.dataset && part.dataset[choice.id] !== choice.value);
  }
}
function choose(choice, value) {
  const known = [...choice.options].some((option) => option.value === value);
  choice.value = known ? value : [...choice.options].find((option) => option.defaultSelected)?.value ?? choice.options[0].value;
}
for (const choice of choices) {
  choice.addEventListener("change", () => {
    store(choice.id, choice.value);
    showSelected();
  });
}

// A number at the beginning of a cell: 61.3 ± 1.2, +1.5 [+0.4, +2.6], −0.3, 2,188, >4 for 4.
function numberIn(text) {
  const found = /^[<>]?\s*([+−-]?)(\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?)/.exec(text);
  return found ? Number(found[2].replaceAll(",", "")) * (/[−-]/.test(found[1]) ? -1 : 1) : NaN;
}
const tables = [...document.querySelectorAll(".table")].map((box) => {
  const name = box.dataset.name;
  const body = box.querySelector("tbody");
  const rows = [...body.rows];
  const heads = [...box.querySelectorAll("th")];
  const texts = new Map(rows.map((row) => [row, [...row.cells].map((cell) => cell.textContent.trim())]));
  const numeric = heads.map((_, column) => {
    const filled = rows.map((row) => texts.get(row)[column]).filter((text) => text && text !== "–");
    return filled.length > 0 && filled.every((text) => !Number.isNaN(numberIn(text)));
  });
  const compare = (column, sign) => (a, b) => {
    const total = a.classList.contains("total") - b.classList.contains("total");
    const [first, second] = [texts.get(a)[column], texts.get(b)[column]];
    const empty = (!first || first === "–") - (!second || second === "–");
    if (total || empty) return total || empty;
    return sign * (numeric[column] ? numberIn(first) - numberIn(second) : first.localeCompare(second, "en", { numeric: true }));
  };
  // 0: as written; n: ascending by column n; −n: descending.
  let order = 0;
  const sort = (next) => {
    order = Math.abs(next) <= heads.length ? next : 0;
    const sorted = order ? [...rows].sort(compare(Math.abs(order) - 1, Math.sign(order))) : rows;
    body.append(...sorted);
    heads.forEach((head, column) => {
      if (Math.abs(order) === column + 1) head.setAttribute("aria-sort", order > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      // Numbers begin with the largest, which is the best.
      const first = (column + 1) * (numeric[column] ? -1 : 1);
      sort(order === first ? -first : order === -first ? 0 : first);
      store(`${name}.sort`, order ? String(order) : "");
    });
  });
  let input = null;
  const filter = (text) => {
    if (!input) return;
    input.value = text;
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const line = texts.get(row).join(" ").toLowerCase();
      row.hidden = !words.every((word) => line.includes(word));
    }
    const left = rows.filter((row) => !row.hidden).length;
    count.textContent = words.length ? `${left} of ${rows.length} rows` : "";
  };
  const count = document.createElement("output");
  if (rows.length > 5) {
    const tools = document.createElement("div");
    tools.className = "tools";
    const label = document.createElement("label");
    input = document.createElement("input");
    input.type = "search";
    input.setAttribute("aria-label", `filter the rows of: ${box.querySelector("caption").textContent}`);
    label.append("filter ", input);
    tools.append(label, count);
    box.prepend(tools);
    input.addEventListener("input", () => {
      filter(input.value);
      store(`${name}.filter`, input.value);
    });
  }
  return { name, sort, filter };
});

function restore() {
  for (const choice of choices) choose(choice, state.get(choice.id));
  showSelected();
  for (const table of tables) {
    table.sort(Math.trunc(Number(state.get(`${table.name}.sort`))) || 0);
    table.filter(state.get(`${table.name}.filter`) || "");
  }
}
// Shows the section of the address, also if another dataset or method is selected.
function goToAnchor() {
  let name = anchor;
  try {
    name = decodeURIComponent(anchor);
  } catch {
    // not encoded
  }
  const target = name && document.getElementById(name);
  if (!target) return;
  const section = target.closest("section");
  for (const choice of choices) {
    if (section && choice.id in section.dataset && choice.value !== section.dataset[choice.id]) {
      choice.value = section.dataset[choice.id];
      state.set(choice.id, choice.value);
    }
  }
  showSelected();
  writeAddress();
  target.scrollIntoView();
}
addEventListener("hashchange", () => {
  const next = readAddress();
  anchor = next.anchor;
  if (next.state) {
    state = next.state;
    restore();
  }
  goToAnchor();
});
restore();
goToAnchor();

// The value of the nearest point of a chart, under the pointer or by the arrow keys.
const tip = document.getElementById("tip");
for (const chart of document.querySelectorAll("svg[data-hover]")) {
  const points = JSON.parse(chart.dataset.hover);
  if (!points.length) continue;
  const box = chart.viewBox.baseVal;
  let ring = null;
  let shown = -1;
  const show = (number) => {
    shown = number;
    const [x, y, text] = points[number];
    if (!ring) {
      ring = document.createElementNS("http://www.w3.org/2000/svg", "circle");
      ring.setAttribute("class", "near");
      ring.setAttribute("r", "5");
      chart.append(ring);
    }
    ring.setAttribute("cx", x);
    ring.setAttribute("cy", y);
    tip.textContent = text;
    tip.hidden = false;
    const place = chart.getBoundingClientRect();
    const left = place.left + (x / box.width) * place.width;
    const top = place.top + (y / box.height) * place.height;
    tip.style.left = `${Math.max(4, Math.min(left + 12, innerWidth - tip.offsetWidth - 4))}px`;
    tip.style.top = `${Math.max(4, top - tip.offsetHeight - 12)}px`;
  };
  const hide = () => {
    tip.hidden = true;
    ring?.remove();
    ring = null;
  };
  const point = (event) => {
    const place = chart.getBoundingClientRect();
    const x = ((event.clientX - place.left) / place.width) * box.width;
    const y = ((event.clientY - place.top) / place.height) * box.height;
    let nearest = 0;
    let least = Infinity;
    points.forEach(([px, py], number) => {
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least) [nearest, least] = [number, distance];
    });
    show(nearest);
  };
  chart.addEventListener("pointermove", point);
  chart.addEventListener("pointerdown", point);
  chart.addEventListener("pointerleave", hide);
  chart.addEventListener("blur", hide);
  chart.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") hide();
    if (!step) return;
    event.preventDefault();
    show((shown + step + points.length) % points.length);
  });
}
