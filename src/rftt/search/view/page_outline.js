"use strict";

/* Draws the outline of the tree that the page holds as JSON, and moves through it. Texts only ever become
   text nodes. */

const tree = JSON.parse(document.getElementById("tree").textContent);
const size = tree.parent.length;
const ROWS_AT_FIRST = 150;
const LINKS = 8;

const children = Array.from({ length: size }, () => []);
for (let node = 1; node < size; node++) children[tree.parent[node]].push(node);
for (const below of children) below.sort((a, b) => tree.visits[b] - tree.visits[a] || a - b);

const steps_below = new Array(size).fill(0);
for (let node = size - 1; node > 0; node--) steps_below[tree.parent[node]] += steps_below[node] + 1;

const outline = document.getElementById("outline");
const items = new Map(); // The element of each node that was drawn.
let selected = 0;
let lit = null; // The nodes that a legend or an answer singles out.
let pressed = null;

/* Small things */

function make(tag, name, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
}

function button(name, text, act) {
  const element = make("button", name, text);
  element.type = "button";
  element.addEventListener("click", act);
  return element;
}

const figure = (value) => (typeof value === "number" ? value.toFixed(2).replace(/^-(0\.00)$/, "$1") : value ?? "–");
const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
const thickness = (visits) => `${(1.5 + 7 * Math.sqrt(visits / Math.max(1, tree.visits[0]))).toFixed(1)}px`;

const seen = [0, 1];
for (const value of tree.value) if (typeof value === "number") seen.push(value);
for (const verdict of tree.verdict) if (typeof verdict?.score === "number") seen.push(verdict.score);
const low = seen.reduce((a, b) => Math.min(a, b));
const high = seen.reduce((a, b) => Math.max(a, b));

/* Colours an element from bad to good by a value, within the values seen. */
function grade(element, value) {
  if (typeof value !== "number") return;
  element.classList.add("graded");
  element.style.setProperty("--good-share", `${(100 * (value - low)) / (high - low)}%`);
}

function chip(node) {
  const name = tree.function[node];
  const element = make("span", "function", name ?? "question");
  if (name) {
    element.style.setProperty("--hue", tree.functions[name].hue);
    element.title = tree.functions[name].description;
  } else element.classList.add("root");
  return element;
}

function path_to(node) {
  const path = [];
  for (; node >= 0; node = tree.parent[node]) path.push(node);
  return path.reverse();
}

/* What came of the rollouts that ended at a node; null if none did. */
function outcome(node) {
  const verdict = tree.verdict[node];
  if (!tree.ended[node] && !verdict) return null;
  const missing = tree.truncated[node] ? "truncated" : verdict ? "no answer" : "not scored";
  return { answer: verdict?.answer ?? null, label: verdict?.answer ?? missing, score: verdict?.score ?? null };
}

/* The outline */

function draw(node, container) {
  const item = make("div", "node");
  item.dataset.node = node;
  item.id = `node-${node}`;
  item.setAttribute("role", "treeitem");
  item.setAttribute("aria-level", path_to(node).length);
  item.style.setProperty("--line", thickness(tree.visits[node]));
  const name = tree.function[node];
  if (name) item.style.setProperty("--hue", tree.functions[name].hue);

  const row = make("div", "row");
  row.addEventListener("click", () => select(node));
  const dot = make("span", "dot");
  dot.style.setProperty("--size", `${(8 + 10 * Math.sqrt(tree.visits[node] / Math.max(1, tree.visits[0]))).toFixed(1)}px`);
  row.append(dot, chip(node), make("span", "text", tree.text[node]));
  if (children[node].length) {
    item.setAttribute("aria-expanded", "false");
    row.append(make("span", "folded", `+ ${plural(steps_below[node], "step")}`));
    dot.title = "fold or unfold";
    dot.addEventListener("click", (event) => {
      event.stopPropagation();
      toggle(node);
    });
  }
  const end = outcome(node);
  if (end) {
    const badge = make("span", "end", end.label);
    if (end.answer !== null) badge.classList.add("answer");
    if (end.score !== null) badge.append(make("span", "score", figure(end.score)));
    grade(badge, end.score);
    row.append(badge);
  }
  const bar = make("span", "visits", tree.visits[node]);
  bar.style.setProperty("--share", `${(100 * tree.visits[node]) / Math.max(1, tree.visits[0])}%`);
  const value = make("span", "value", figure(tree.value[node]));
  grade(value, tree.value[node]);
  row.append(bar, value);
  item.append(row);
  container.append(item);
  items.set(node, item);
  if (lit) item.classList.toggle("lit", lit.has(node));
  return item;
}

function unfold(node) {
  const item = items.get(node);
  if (!children[node].length || item.getAttribute("aria-expanded") === "true") return;
  item.setAttribute("aria-expanded", "true");
  if (item.lastElementChild.classList.contains("below")) return;
  // An only child goes straight on below its parent: only forks take room to the right.
  const below = make("div", children[node].length > 1 ? "below fork" : "below");
  below.setAttribute("role", "group");
  let later = children[node].reduce((sum, child) => sum + tree.visits[child], 0);
  for (const child of children[node]) {
    later -= tree.visits[child];
    draw(child, below).style.setProperty("--past", thickness(later));
  }
  item.append(below);
}

function fold(node) {
  if (children[node].length) items.get(node).setAttribute("aria-expanded", "false");
}

const is_unfolded = (node) => items.get(node)?.getAttribute("aria-expanded") === "true";

function toggle(node) {
  if (is_unfolded(node)) fold(node);
  else unfold(node);
}

/* Unfolds what was visited most, as far as fits a few screens. */
function unfold_some() {
  let rows = 1;
  const order = tree.visits.map((_, node) => node).sort((a, b) => tree.visits[b] - tree.visits[a] || a - b);
  for (const node of order) {
    if (!items.has(node) || rows + children[node].length > ROWS_AT_FIRST) continue;
    unfold(node);
    rows += children[node].length;
  }
}

function unfold_all() {
  for (let node = 0; node < size; node++) unfold(node);
  mark_path();
}

/* Selecting a step */

function select(node, scroll = false) {
  selected = node;
  const path = path_to(node);
  for (const above of path.slice(0, -1)) unfold(above);
  mark_path();
  draw_path(path);
  try {
    history.replaceState(null, "", `#${node}`);
  } catch {
    // A page shown inside another, as in a notebook, has no address of its own.
  }
  if (scroll) items.get(node).firstElementChild.scrollIntoView({ block: "nearest" });
}

function mark_path() {
  for (const item of outline.querySelectorAll(".on-path, .passed, .selected")) {
    item.classList.remove("on-path", "passed", "selected");
    item.removeAttribute("aria-selected");
  }
  for (const node of path_to(selected)) {
    const item = items.get(node);
    item.classList.add("on-path");
    for (let e = item.previousElementSibling; e?.dataset.node; e = e.previousElementSibling) e.classList.add("passed");
  }
  items.get(selected).classList.add("selected");
  items.get(selected).setAttribute("aria-selected", "true");
  outline.setAttribute("aria-activedescendant", `node-${selected}`);
}

/* Singling nodes out */

function light(source, nodes) {
  pressed?.setAttribute("aria-pressed", "false");
  const again = source === pressed;
  pressed = again ? null : source;
  lit = again ? null : nodes;
  pressed?.setAttribute("aria-pressed", "true");
  outline.classList.toggle("lighting", lit !== null);
  for (const [node, item] of items) item.classList.toggle("lit", lit !== null && lit.has(node));
}

/* By keyboard */

function walk(event) {
  const up = tree.parent[selected];
  const first = children[selected][0];
  const rows = [...outline.querySelectorAll(".node")].filter((item) => item.offsetParent);
  const here = rows.indexOf(items.get(selected));
  const moves = {
    ArrowDown: () => rows[here + 1]?.dataset.node,
    ArrowUp: () => rows[here - 1]?.dataset.node,
    ArrowRight: () => (is_unfolded(selected) ? first : void unfold(selected)),
    ArrowLeft: () => (is_unfolded(selected) ? void fold(selected) : up),
  };
  if (!moves[event.key]) return;
  event.preventDefault();
  const next = Number(moves[event.key]() ?? -1);
  if (next >= 0) select(next, true);
}
