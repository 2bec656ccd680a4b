// One picture as an element of a list.

/** Return an element with the tag, properties and children. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export function percent(share) {
  return `${Math.round(100 * share)}%`;
}

const REASONS = { far: "unlike labelled ones" }; // "far" is a column of its own

function caption(picture, heading) {
  if (picture.problem) return "cannot be read";
  if (picture.label) return picture.label;
  if (!picture.guess) return "";
  const probability = percent(picture.probability);
  return picture.guess === heading ? probability : `${picture.guess}? ${probability}`;
}

/**
 * Return an element for a picture. `session` makes the address of its image differ between sessions; `heading` is the
 * class that the list is about.
 */
function pictureElement(picture, session, heading) {
  const image = make("img", { alt: picture.name, loading: "lazy", decoding: "async", draggable: false });
  if (!picture.problem) image.src = `small/${picture.number}?${session}`;
  const element = make("div", { className: "picture", tabIndex: -1, title: picture.problem ?? picture.name });
  element.setAttribute("role", "option");
  element.dataset.number = picture.number;
  if (picture.guess) element.dataset.guess = picture.guess;
  if (picture.label) element.classList.add("labelled");
  if (picture.far && !picture.label) element.classList.add("far");
  if (picture.problem) element.classList.add("broken");
  const frame = make("span", { className: "frame" }, image);
  element.append(frame, make("span", { className: "caption", textContent: caption(picture, heading) }));
  if (picture.reason) {
    element.append(make("span", { className: "reason", textContent: REASONS[picture.reason] ?? picture.reason }));
  }
  return element;
}

/** Replace the children of `list` by elements for pictures, keeping elements whose picture looks the same. */
export function showPictures(list, pictures, session, heading) {
  const kept = new Map([...list.children].map((element) => [element.dataset.key, element]));
  const elements = pictures.map((picture) => {
    const key = JSON.stringify([session, picture]);
    const element = kept.get(key) ?? pictureElement(picture, session, heading);
    element.dataset.key = key;
    return element;
  });
  if (elements.length !== list.children.length || elements.some((element, place) => list.children[place] !== element)) {
    list.replaceChildren(...elements);
  }
}
