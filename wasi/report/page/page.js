"use strict";
const figures = JSON.parse(document.getElementById("figure-data").textContent);
const details = JSON.parse(document.getElementById("details-data").textContent);
const table = document.getElementById("table");
const ERRORS = 1; // Vega's log level
const dark = matchMedia("(prefers-color-scheme: dark)");

const hidden = new Set(); // numbers of the rows that the reader has filtered out

// --- figures ---------------------------------------------------------------------------------------------------------

function themed(spec, axes, scale) {
  const style = getComputedStyle(document.documentElement);
  const [ink, faint, line] = ["--ink", "--faint", "--line"].map((name) => style.getPropertyValue(name).trim());
  const text = JSON.stringify(spec).replaceAll('"#000000"', JSON.stringify(ink)); // vanilla's black, on a dark page too
  const found = JSON.parse(text);
  found.data.values = found.data.values.filter(({ row }) => !hidden.has(row));
  const has = ({ filter }) => !filter?.field || found.data.values.some((value) => value[filter.field] !== undefined);
  found.layer = found.layer.filter(({ transform = [] }) => transform.every(has)); // texts cannot avoid marks without data
  for (const { encoding } of found.layer) {
    for (const axis of axes) if (encoding[axis]) Object.assign(encoding[axis].scale, { type: scale, nice: scale !== "log" });
  }
  const font = getComputedStyle(document.body).fontFamily;
  found.config = {
    background: "transparent", font,
    view: { stroke: null },
    axis: { labelColor: ink, titleColor: faint, gridColor: line, domainColor: faint, tickColor: faint, gridOpacity: 0.6,
      titleFontWeight: "normal", labelOverlap: "greedy", labelSeparation: 6, tickCount: 5 },
    legend: { labelColor: ink, titleColor: faint },
  };
  return found;
}

// Vega can place texts beside their points so that they cover nothing; Vega-Lite has no word for that.
const SIDES = ["right", "left", "top", "bottom", "top-right", "bottom-right", "top-left", "bottom-left"];
const ANCHORS = { labels_marks: SIDES, ends_marks: ["right"] };
function placed(spec) {
  const avoidMarks = spec.marks.filter(({ type }) => type !== "text").map(({ name }) => name);
  const size = { signal: "[max(width, 1), height]" }; // in its first pass the figure may have no width yet
  for (const mark of spec.marks) {
    const anchor = ANCHORS[mark.name];
    if (anchor) mark.transform = [{ type: "label", size, anchor, offset: [8], avoidMarks, avoidBaseMark: false }];
  }
  return spec;
}

const draw = (place) => place.drawing = (place.drawing ?? Promise.resolve()).then(() => drawn(place)); // one at a time

async function drawn(place) {
  const scale = place.closest("article").querySelector('[data-scale][aria-pressed="true"]')?.dataset.scale;
  const spec = themed(figures[place.dataset.figure], place.dataset.scalable ?? "", scale);
  place.finalize?.();
  const result = await vegaEmbed(place, spec, { mode: "vega-lite", actions: false, renderer: "svg", logLevel: ERRORS, patch: placed });
  place.finalize = () => result.finalize();
  place.dataset.drawn = scale ?? "";
  result.view.addEventListener("click", (event, item) => {
    if (item?.datum?.row !== undefined) show(item.datum.row);
  });
}

const PAUSE = 150; // milliseconds without a key pressed, after which figures follow the filter
const AT_ONCE = 48; // figures; on a longer page the others are drawn when the reader comes near or the browser is idle
const idle = window.requestIdleCallback ?? ((then) => setTimeout(then, 20));

const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    draw(target);
  }
}, { rootMargin: "800px" });

// Figures without a row left go, and so do sections without a figure left, parts without a section left, and the keys of
// rows that are hidden.
function filterFigures(lines) {
  const before = new Set(hidden);
  hidden.clear();
  for (const line of lines) hidden.add(Number(line.dataset.row));
  const changed = new Set([...hidden, ...before].filter((row) => hidden.has(row) !== before.has(row)));
  const places = [...all].filter((place) => figures[place.dataset.figure].data.values.some(({ row }) => changed.has(row)));
  for (const place of places) {
    place.closest("figure").hidden = figures[place.dataset.figure].data.values.every(({ row }) => hidden.has(row));
  }
  for (const article of document.querySelectorAll(".part article")) article.hidden = !article.querySelector("figure:not([hidden])");
  for (const part of document.querySelectorAll(".part:has(article)")) part.hidden = !part.querySelector("article:not([hidden])");
  for (const key of document.querySelectorAll(".key[data-rows]")) {
    key.hidden = key.dataset.rows.split(" ").every((row) => hidden.has(Number(row)));
  }
  redraw(places.filter((place) => !place.closest("figure").hidden));
}

const redraw = (places) => places.forEach((place) => "drawn" in place.dataset && draw(place));
const all = document.querySelectorAll("[data-figure]");
const first = [...all].slice(0, AT_ONCE), rest = [...all].slice(AT_ONCE);
rest.forEach((place) => seen.observe(place));
Promise.allSettled(first.map(draw)).then(drawRest); // so that print and screenshots of the whole page have them

async function drawRest() {
  for (const place of rest) {
    await new Promise((resolve) => idle(resolve));
    if (place.drawing) continue;
    seen.unobserve(place);
    await draw(place).catch(reportError);
  }
}

dark.addEventListener("change", () => redraw(all));

document.querySelectorAll("[data-scale]").forEach((button) => button.addEventListener("click", () => {
  for (const other of button.parentElement.children) other.setAttribute("aria-pressed", other === button);
  redraw(button.closest("article").querySelectorAll("[data-scalable]"));
}));

// --- a run's configuration -------------------------------------------------------------------------------------------

function show(row) {
  const { name, about, remarks, folders, config } = details[row];
  document.getElementById("details-name").textContent = name;
  document.getElementById("details-about").textContent = about;
  document.getElementById("details-config").textContent = config;
  for (const [id, lines] of [["details-remarks", remarks], ["details-folders", folders]]) {
    document.getElementById(id).replaceChildren(...lines.map((line) => {
      const item = document.createElement("li");
      item.textContent = line;
      return item;
    }));
  }
  document.getElementById("details").showModal();
}

document.getElementById("details").addEventListener("click", (event) => {
  if (event.target === event.currentTarget) event.currentTarget.close(); // beside the dialog
});

// --- the table -------------------------------------------------------------------------------------------------------

if (table) {
  const body = table.tBodies[0], lines = [...body.rows];
  const filter = document.getElementById("filter"), method = document.getElementById("method");
  const narrow = document.getElementById("sort"), reverse = document.getElementById("direction");
  const count = document.getElementById("count");

  const order = (line, column) => line.cells[column].dataset.order;
  function compare(a, b, sign) { // what has no value comes last, in either direction
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    const numbers = [Number(a), Number(b)];
    return sign * (numbers.some(Number.isNaN) ? a.localeCompare(b, "en", { numeric: true }) : numbers[0] - numbers[1]);
  }
  function sort(column, direction) {
    const sign = direction === "descending" ? -1 : 1;
    const sorted = [...lines].sort((a, b) => compare(order(a, column), order(b, column), sign));
    body.append(...(direction === "none" ? lines : sorted));
    [...table.tHead.rows[0].cells].forEach((cell, place) => {
      cell.setAttribute("aria-sort", place === column ? direction : "none");
    });
    narrow.value = direction === "none" ? "" : column; // the view may become narrow later
    reverse.hidden = direction === "none";
    reverse.textContent = direction === "descending" ? "▼ descending" : "▲ ascending";
    reverse.dataset.other = direction === "descending" ? "ascending" : "descending";
  }
  const next = { none: "ascending", ascending: "descending", descending: "none" };
  table.tHead.addEventListener("click", ({ target }) => {
    const button = target.closest("button");
    if (button) sort(Number(button.dataset.column), next[button.closest("th").getAttribute("aria-sort")]);
  });
  narrow.addEventListener("change", () => sort(Number(narrow.value), narrow.selectedOptions[0].dataset.first ?? "none"));
  reverse.addEventListener("click", () => sort(Number(narrow.value), reverse.dataset.other));

  let waiting;
  function choose() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const line of lines) {
      const isOther = method.value && line.dataset.method !== method.value;
      line.hidden = isOther || !words.every((word) => line.dataset.words.includes(word));
    }
    const shown = lines.filter((line) => !line.hidden).length;
    clearTimeout(waiting);
    waiting = setTimeout(() => filterFigures(lines.filter((line) => line.hidden)), PAUSE);
    count.textContent = shown === lines.length ? `${shown} row${shown === 1 ? "" : "s"}` : `${shown} of ${lines.length} rows`;
  }
  for (const [element, event] of [[filter, "input"], [method, "change"]]) element.addEventListener(event, choose);
  document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());
  body.addEventListener("click", ({ target }) => {
    const button = target.closest("button.open");
    if (button) show(Number(button.dataset.row));
  });
  choose();
}
