// What the state of the server looks like: one function per part of the page.
import { drawCurve } from "./chart.js";
import { make, percent, showPictures } from "./pictures.js";

const $ = (id) => document.getElementById(id);

export function showHeader(state) {
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
}

/** Show the classes; `onGive`, `onRename` and `onRemove` are called with the name of one. */
export function showClasses(state, { onGive, onRename, onRemove }) {
  const rows = state.classes.map(({ name, labelled }, place) => {
    const button = make("button", { type: "button", title: `Give ${name}` });
    if (place < 9) button.append(make("kbd", { textContent: place + 1 }), " ");
    button.append(make("span", { className: "name", textContent: name }), ` (${labelled})`);
    button.onclick = () => onGive(name);
    const row = make("li", {}, button, smallButton("✎", `Rename class ${name}`, () => onRename(name)));
    row.dataset.name = name;
    if (!labelled) row.append(smallButton("×", `Remove class ${name}`, () => onRemove(name)));
    return row;
  });
  $("classes").replaceChildren(...rows);
}

function smallButton(text, title, onclick) {
  const button = make("button", { type: "button", className: "small-button", textContent: text, title, onclick });
  button.setAttribute("aria-label", title);
  return button;
}

export function showColumns(state) {
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

export function showEstimate(state) {
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

/** Show the choices of views, and return whether the chosen one has vanished, as its class was renamed or removed. */
export function showViews(state) {
  const options = [["all", "all"], ["unlabelled", "without label"], ["labelled", "with label"]];
  for (const { name } of state.classes) options.push([`class:${name}`, name]);
  if (state.columns.length) options.push(["far", "far from everything"]);
  if (state.unreadable) options.push(["unreadable", "cannot be read"]);
  const chosen = $("show").value || "all";
  const key = JSON.stringify(options);
  const vanished = !options.some(([value]) => value === chosen);
  if ($("show").dataset.key !== key) {
    $("show").dataset.key = key;
    $("show").replaceChildren(...options.map(([value, text]) => make("option", { value, textContent: text })));
    $("show").value = vanished ? "all" : chosen;
  }
  $("text-label").hidden = !state.searchable;
  return vanished;
}

export function showExport(found) {
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
