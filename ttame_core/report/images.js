"use strict";
// Chooses among the predictions that the page carries, shows two explainers' maps side by side, and
// writes the selection as CSV. Names are put into the page as text, never as HTML.

const data = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("choice");
const fields = form.elements;
const list = document.getElementById("images");
const more = document.getElementById("more");
const AT_ONCE = 24;
const VIRIDIS = ["440154", "482878", "3e4a89", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725"]
  .map((colour) => [0, 2, 4].map((i) => parseInt(colour.slice(i, i + 2), 16)));

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function fill(select, names, first) {
  if (first) select.append(new Option(first, ""));
  for (const [value, name] of names) select.append(new Option(name, value));
}

const known = (values) => values.filter((value) => value !== null);
const distinct = (values) => [...new Set(known(values))].sort((a, b) => a.localeCompare(b)).map((name) => [name, name]);
const numbered = data.explainers.map((name, place) => [place, name]);
fill(fields.backbone, distinct(data.rows.map((row) => row.backbone)), "all");
fill(fields.class, distinct(data.rows.map((row) => row.class)), "all");
fill(fields.predicted, distinct(data.rows.map((row) => row.predicted)), "any class");
fill(fields.left, numbered);
fill(fields.other, numbered, "none");
const hide = (field, without) => { field.closest("label").hidden = without; };
hide(fields.class, fields.class.length < 2);
hide(fields.right, !data.rows.some((row) => row.right !== null));
hide(fields.suspected, !data.rows.some((row) => row.suspected));
hide(fields.inside, !data.rows.some((row) => known(row.inside).length));
hide(fields.trust, !data.rows.some((row) => known(row.trust).length));
hide(fields.left, !numbered.length);
hide(fields.other, numbered.length < 2);
form.hidden = !data.rows.length;

function start() {
  if (numbered.length > 1) fields.other.value = "1";
  choose();
}

const last = (value) => (value === null || Number.isNaN(value) ? Infinity : value);
const by = {
  trust: (row) => last(row.trust[fields.left.value] ?? null),
  probability: (row) => -(row.probability ?? -1),
  apart: (row) => {
    const [a, b] = [row.trust[fields.left.value], row.trust[fields.other.value]];
    return a == null || b == null ? Infinity : -Math.abs(a - b);
  },
};

let chosen = [];
function choose() {
  const same = (name, value) => fields[name].value === "" || fields[name].value === String(value);
  chosen = data.rows.filter((row) =>
    same("backbone", row.backbone) && same("class", row.class) && same("predicted", row.predicted) && same("right", row.right)
    && same("suspected", row.suspected) && same("inside", row.inside[fields.left.value] ?? null)
    && (fields.trust.value === "" || last(row.trust[fields.left.value] ?? null) <= Number(fields.trust.value)));
  const key = by[fields.order.value];
  chosen = chosen.map((row) => [key(row), row]).sort(([a], [b]) => (a === b ? 0 : a - b)).map(([, row]) => row);
  document.getElementById("count").textContent = !data.rows.length ? "" : `${chosen.length} of ${data.rows.length} predictions`;
  list.replaceChildren();
  show();
}

function show() {
  const from = list.children.length;
  list.append(...chosen.slice(from, from + AT_ONCE).map(card));
  more.hidden = list.children.length >= chosen.length;
}

// A small number keeps a decimal, so that little does not look like nothing.
const number = (value) => (value === 0 || value >= 9.95 ? value.toFixed(0) : value < 0.05 ? "under 0.1" : value.toFixed(1));
const percent = (value) => (value == null ? "?" : `${number(value)} %`);
function card(row) {
  const made = element("article", undefined, "exhibit");
  const head = element("h2", row.class ?? row.predicted);
  if (row.right === false) head.append(" ", element("span", "taken for", "taken"), ` ${row.predicted}`);
  head.append(" ", element("span", percent(row.probability), "p"));
  const about = element("p", `${row.backbone} · `, "about");
  about.append(element("code", row.key));
  made.append(head, about);
  const strip = element("div", undefined, "strip");
  if (row.view === undefined) {
    for (const place of places()) strip.append(element("p", said(row, place), "about"));
    strip.append(element("p", "No picture here: ttame show draws it.", "about"));
  } else {
    strip.append(tile(row, null, "what the classifier saw"));
    for (const place of places()) if (row.maps[place]) strip.append(tile(row, row.maps[place], said(row, place)));
  }
  made.append(strip);
  return made;
}

const places = () => [...new Set([fields.left.value, fields.other.value])].filter((value) => value !== "");
function said(row, place) {
  const words = [];
  if (row.trust[place] !== null) words.push(`trust ${number(row.trust[place])}`);
  if (row.inside[place] !== null) words.push(row.inside[place] ? "maximum on the object" : "maximum beside the object");
  return `${data.explainers[place]}${words.length ? `: ${words.join(", ")}` : ""}`;
}

function tile(row, map, caption) {
  const figure = element("figure", undefined, "tile");
  const frame = element("span", undefined, map ? "frame grey" : "frame");
  const image = element("img");
  image.src = data.views[row.view];
  [image.width, image.height] = row.size;
  image.alt = `${caption}: ${row.key}`;
  frame.append(image);
  if (map) frame.append(heat(map));
  if (row.boxes.length) frame.append(outlines(row.boxes));
  figure.append(frame, element("figcaption", caption));
  return figure;
}

function heat([height, width, encoded]) {
  const canvas = element("canvas");
  [canvas.width, canvas.height] = [width, height];
  const pixels = new ImageData(width, height);
  [...atob(encoded)].forEach((character, i) => {
    const value = character.charCodeAt(0) / 255;
    const step = Math.min(value * (VIRIDIS.length - 1), VIRIDIS.length - 1.001);
    const [low, high] = [VIRIDIS[Math.floor(step)], VIRIDIS[Math.floor(step) + 1]];
    low.forEach((from, c) => { pixels.data[4 * i + c] = from + (high[c] - from) * (step % 1); });
    pixels.data[4 * i + 3] = 255 * (0.15 + 0.6 * value);
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

function outlines(boxes) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  for (const [name, value] of [["class", "boxes"], ["viewBox", "0 0 100 100"], ["preserveAspectRatio", "none"], ["aria-hidden", "true"]]) svg.setAttribute(name, value);
  for (const [x0, y0, x1, y1] of boxes) {
    const box = document.createElementNS(space, "rect");
    for (const [name, value] of [["x", x0], ["y", y0], ["width", x1 - x0], ["height", y1 - y0]]) box.setAttribute(name, value);
    svg.append(box);
  }
  return svg;
}

const quote = (value) => { const text = String(value ?? ""); return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text; };
document.getElementById("csv").addEventListener("click", () => {
  const head = ["key", "backbone", "class", "predicted", "right", "probability", ...data.explainers.map((name) => `trust of ${name}`)];
  const lines = chosen.map((row) => [row.key, row.backbone, row.class, row.predicted, row.right, row.probability, ...row.trust]);
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([head, ...lines].map((line) => line.map(quote).join(",") + "\n"), { type: "text/csv" }));
  link.download = "images.csv";
  link.click();
  URL.revokeObjectURL(link.href);
});

more.addEventListener("click", show);
form.addEventListener("input", choose);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(start));
start();
