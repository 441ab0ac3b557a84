"use strict";
// Sorting, filtering, CSV and the picture viewer. Without it the page has all the same content.

const value = (row, column) => {
  const cell = row.cells[column];
  if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
  const text = cell.textContent.trim();
  return text === "" || text === "?" ? null : text;
};

const compare = (a, b) =>
  typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));

function sort(table, column, button) {
  const head = button.closest("th");
  const ascending = head.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.querySelectorAll("th")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [value(row, column), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null); // what is missing comes last
    return ascending ? compare(a, b) : compare(b, a);
  });
  body.append(...rows.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(table, column, button));
  });
}

if (matchMedia("(max-width: 40rem)").matches)  // a phone's first screen has all answers
  for (const reasons of document.querySelectorAll(".answer details")) reasons.open = false;

const filter = document.getElementById("filter");
const ends = document.getElementById("ends");
function choose() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0, all = 0;
  document.querySelectorAll("table.board").forEach((table, number) => {
    for (const row of table.tBodies[0].rows) {
      const names = `${row.cells[0].textContent} ${row.cells[1].textContent}`.toLowerCase();
      row.hidden = !words.every((w) => names.includes(w)) || (!ends.checked && row.classList.contains("end"));
      if (number === 0) { all += 1; shown += !row.hidden; }
    }
  });
  document.getElementById("matches").textContent = shown === all ? "" : `${shown} of ${all} rows`;
}
filter.form.hidden = false;
filter.form.addEventListener("submit", (event) => event.preventDefault());
filter.addEventListener("input", choose);
ends.addEventListener("change", choose);

const quote = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
const named = (cell) => [...cell.childNodes].filter((n) => n.nodeName !== "SMALL").map((n) => n.textContent).join("").trim();
function csv(table) {
  const interval = [...table.tHead.rows[0].cells].map((_, column) =>
    [...table.tBodies[0].rows].some((row) => row.cells[column].dataset.low !== undefined));
  const beside = [...table.tHead.rows[0].cells].map((_, column) =>
    [...table.tBodies[0].rows].some((row) => row.cells[column].dataset.beside !== undefined));
  const lines = [[...table.tHead.rows[0].cells].flatMap((cell, column) => {
    const name = cell.dataset.name ?? cell.textContent.replace(/[↓↑]/g, "").trim();
    if (beside[column]) return [name, `${name} value`];
    return interval[column] ? [name, `${name} low`, `${name} high`] : [name];
  })];
  for (const row of table.tBodies[0].rows) {
    if (row.hidden) continue;
    lines.push([...row.cells].flatMap((cell, column) => {
      const text = cell.dataset.v ?? named(cell);
      if (beside[column]) return [text, cell.dataset.beside ?? ""];
      return interval[column] ? [text, cell.dataset.low ?? "", cell.dataset.high ?? ""] : [text];
    }));
  }
  return lines.map((line) => line.map(quote).join(",") + "\n").join("");
}
for (const button of document.querySelectorAll("button.csv")) {
  const table = button.parentElement.previousElementSibling.querySelector("table");
  const name = table.caption.textContent.trim();
  button.hidden = false;
  button.setAttribute("aria-label", `CSV of: ${name}`);
  button.addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv(table)], { type: "text/csv" }));
    link.download = `${name.replace(/[^\w-]+/g, "-")}.csv`;
    link.click();
    URL.revokeObjectURL(link.href);
  });
}

const viewer = document.getElementById("viewer");
let current = null;
function show(button) {
  current = button;
  viewer.querySelector(".view").replaceChildren(button.querySelector(".frame").cloneNode(true));
  viewer.querySelector("p").textContent = button.dataset.caption;
  if (!viewer.open) viewer.showModal();
}
document.addEventListener("click", (event) => {
  const button = event.target.closest("button.open");
  if (button) show(button);
  else if (event.target === viewer) viewer.close();
});
viewer.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step) return;
  const all = [...current.closest(".strip").querySelectorAll("button.open")];
  show(all[(all.indexOf(current) + step + all.length) % all.length]);
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || viewer.open) return;
  const open = document.activeElement.closest("details[open]");
  if (open) { open.open = false; open.querySelector("summary").focus(); }
});

window.addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not(.sql)")) details.open = true;
});
