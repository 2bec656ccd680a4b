// The estimated accuracy against the number of labels, as SVG.
import { percent } from "./pictures.js";

const WIDTH = 300, HEIGHT = 120, LEFT = 38, RIGHT = 8, TOP = 8, BOTTOM = 26;
const NAMESPACE = "http://www.w3.org/2000/svg";

function shape(tag, attributes, text) {
  const element = document.createElementNS(NAMESPACE, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** Draw points {labels, accuracy, low, high} into `place`; nothing with fewer than two. */
export function drawCurve(place, points) {
  if (points.length < 2) {
    place.replaceChildren();
    return;
  }
  const first = points[0].labels, last = points.at(-1).labels;
  const x = (labels) => LEFT + ((WIDTH - LEFT - RIGHT) * (labels - first)) / (last - first);
  const y = (share) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - share);
  const line = (key) => points.map((point) => `${x(point.labels).toFixed(1)},${y(point[key]).toFixed(1)}`);
  const title = `Estimated accuracy from ${first} labels (${percent(points[0].accuracy)}) to ${last} labels `
    + `(${percent(points.at(-1).accuracy)})`;
  const chart = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title });
  for (const share of [0, 0.5, 1]) {
    chart.append(
      shape("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(share), y2: y(share), class: "grid" }),
      shape("text", { x: LEFT - 5, y: y(share) + 4, "text-anchor": "end" }, percent(share)),
    );
  }
  chart.append(
    shape("polygon", { points: [...line("low"), ...line("high").reverse()].join(" "), class: "band" }),
    shape("polyline", { points: line("accuracy").join(" "), class: "line" }),
    shape("text", { x: LEFT, y: HEIGHT - 6 }, first),
    shape("text", { x: WIDTH - RIGHT, y: HEIGHT - 6, "text-anchor": "end" }, `${last} labels`),
  );
  place.replaceChildren(chart);
}
