// Shared by all scripts of the page: the data, the colours, downloads, printing, and the choice of the panel.
"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const THEMES = ["auto", "light", "dark"];
const redraws = new Set(); // functions to call when the colours have changed
const unfinished = new Set(); // functions that draw all parts that wait to come near the screen; called before printing

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children); // strings become text, never HTML
  return element;
}

const probe = document.body.appendChild(make("span", { hidden: true }));

function colour(name) {
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}

function percent(value) {
  if (value === null || Number.isNaN(value)) return "-";
  const percents = 100 * value;
  if (percents > 0 && percents < 0.01) return "<0.01%";
  return `${percents.toFixed(percents >= 10 ? 1 : 2)}%`;
}

function short(value) {
  return value === null ? "-" : String(Number(value.toPrecision(4)));
}

// A spreadsheet would evaluate a text cell that begins like a formula, so such a cell gets a leading quote.
function csvCell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function csv(rows) {
  return rows.map((row) => row.map(csvCell).join(",")).join("\n") + "\n";
}

function slug(text) {
  return text.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 60) || "data";
}

function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  const link = make("a", { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

// The array that packed_array() in interactive.py made: base64 of little-endian values, with a shape.
function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed.data), (char) => char.charCodeAt(0));
  const kinds = { uint8: Uint8Array, uint16: Uint16Array, int32: Int32Array, float32: Float32Array };
  return { shape: packed.shape, values: new kinds[packed.dtype](bytes.buffer) };
}

function redrawAll() {
  for (const redraw of redraws) redraw();
}

document.getElementById("theme").addEventListener("click", (event) => {
  const root = document.documentElement;
  const next = THEMES[(THEMES.indexOf(root.dataset.theme ?? "auto") + 1) % THEMES.length];
  root.dataset.theme = next;
  event.target.textContent = `theme: ${next}`;
  redrawAll();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);

let screenTheme = null; // while the page is printed: the theme to return to

// Charts take their colours when they are drawn, so the page becomes light before it is printed.
function setPrinting(on) {
  if (on === (screenTheme !== null)) return; // browsers announce printing by events, by the media query, or by both
  const root = document.documentElement;
  [root.dataset.theme, screenTheme] = on ? ["light", root.dataset.theme ?? "auto"] : [screenTheme, null];
  if (on) for (const part of document.querySelectorAll("details.part")) part.open = true;
  redrawAll();
  if (on) for (const finish of unfinished) finish();
}

addEventListener("beforeprint", () => setPrinting(true));
addEventListener("afterprint", () => setPrinting(false));
matchMedia("print").addEventListener("change", (event) => setPrinting(event.matches));

document.getElementById("panel")?.addEventListener("change", (event) => {
  for (const panel of document.querySelectorAll(".panel")) panel.hidden = panel.dataset.panel !== event.target.value;
});

// A phone shows the headings of the sections; a tap or a link of the contents opens one.
const parts = [...document.querySelectorAll("details.part")];
if (matchMedia("(max-width: 46rem)").matches) for (const part of parts.slice(1)) part.open = false;
for (const link of document.querySelectorAll("nav a")) {
  link.addEventListener("click", () => {
    const part = document.querySelector(`${link.getAttribute("href")} > details.part`);
    if (part) part.open = true;
  });
}

for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(code); // a page from disk may not write to the clipboard
      button.textContent = "selected";
    }
  });
}
