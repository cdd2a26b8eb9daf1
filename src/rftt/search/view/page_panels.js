"use strict";

/* What stands around the outline: the selected path, the figures, the answers, the legend; and the start. */

/* The panel beside the outline: the selected path in full, and what stood beside each of its steps. */
function draw_path(path) {
  const panel = document.getElementById("path");
  const list = make("ol");
  for (const node of path) {
    const step = make("li", node === selected ? "selected" : "");
    if (tree.function[node]) step.style.setProperty("--hue", tree.functions[tree.function[node]].hue);
    const head = make("div", "head");
    head.append(chip(node), figures_of(node));
    step.append(head, make("p", "body", tree.text[node]));
    const siblings = node ? children[tree.parent[node]].filter((other) => other !== node) : [];
    if (siblings.length) step.append(links("beside it", siblings));
    list.append(step);
  }
  panel.replaceChildren(make("h2", "", `Path to step ${selected}`), list);
  const end = outcome(selected);
  if (end) {
    const line = make("p", "verdict", `${end.answer === null ? "" : "Answer "}${end.label}, `);
    line.append(end.score === null ? "not scored" : `score ${figure(end.score)}`);
    if (tree.verdict[selected]?.reason) line.append(`: ${tree.verdict[selected].reason}`);
    grade(line, end.score);
    panel.append(line);
  }
  if (children[selected].length) panel.append(links("goes on with", children[selected]));
  if (tree.prior[selected]) panel.append(prior_of(selected));
  panel.append(details_of(selected));
  panel.scrollTop = Math.max(0, list.lastElementChild.offsetTop - panel.clientHeight / 2);
}

function figures_of(node) {
  const figures = make("span", "figures", plural(tree.visits[node], "visit"));
  const value = make("span", "value", figure(tree.value[node]));
  grade(value, tree.value[node]);
  figures.append(value);
  return figures;
}

function links(label, nodes) {
  const box = make("div", "links");
  box.append(make("span", "label", label));
  for (const node of nodes.slice(0, LINKS)) {
    const link = button("link", undefined, () => select(node, true));
    link.append(chip(node), make("span", "text", tree.text[node]), figures_of(node));
    link.title = tree.text[node];
    box.append(link);
  }
  if (nodes.length > LINKS) box.append(make("span", "label", `and ${nodes.length - LINKS} more`));
  return box;
}

function prior_of(node) {
  const box = make("div", "prior");
  box.append(make("span", "label", "what the policy would do next"));
  for (const [name, p] of Object.entries(tree.prior[node]).sort((a, b) => b[1] - a[1])) {
    const line = make("div", "meter", `${name} ${(100 * p).toFixed(1)}%`);
    line.style.setProperty("--hue", tree.functions[name]?.hue ?? 0);
    line.style.setProperty("--share", `${100 * p}%`);
    box.append(line);
  }
  return box;
}

function details_of(node) {
  const facts = [`${tree.value_count[node]} scored`, `${tree.ended[node]} ended here`];
  if (tree.log_prob[node] !== null) {
    facts.push(`${plural(tree.ids[node], "token")}, ${tree.actions[node]} sampled by the policy`);
    facts.push(`log-probability ${figure(tree.log_prob[node])}`);
  }
  facts.push(tree.exhausted[node] ? "exhausted" : "open");
  return make("p", "details", facts.join(" · "));
}

function draw_legend() {
  for (const name of Object.keys(tree.functions)) {
    const nodes = new Set();
    tree.function.forEach((other, node) => other === name && nodes.add(node));
    const entry = button("legend", undefined, () => light(entry, nodes));
    entry.setAttribute("aria-pressed", "false");
    entry.style.setProperty("--hue", tree.functions[name].hue);
    entry.title = tree.functions[name].description;
    entry.append(make("span", "function", name), make("span", "figures", nodes.size));
    entry.disabled = !nodes.size;
    document.getElementById("legend").append(entry);
  }
}

/* Answers by votes. Rollouts without one are counted too, after them. */
function draw_answers() {
  const groups = new Map();
  for (let node = 0; node < size; node++) {
    const end = tree.ended[node] ? outcome(node) : null;
    if (!end) continue;
    const key = JSON.stringify([end.answer, end.label]);
    if (!groups.has(key)) groups.set(key, { ...end, votes: 0, scores: [], nodes: new Set() });
    const group = groups.get(key);
    group.votes += tree.ended[node];
    if (typeof end.score === "number") group.scores.push(end.score);
    for (const above of path_to(node)) group.nodes.add(above);
  }
  const box = document.getElementById("answers");
  const order = [...groups.values()].sort(
    (a, b) => (a.answer === null) - (b.answer === null) || b.votes - a.votes);
  for (const group of order) {
    const mean = group.scores.length ? group.scores.reduce((a, b) => a + b) / group.scores.length : null;
    const entry = button("vote", undefined, () => light(entry, group.nodes));
    entry.setAttribute("aria-pressed", "false");
    entry.style.setProperty("--share", `${(100 * group.votes) / Math.max(1, tree.visits[0])}%`);
    entry.append(make("span", group.answer === null ? "none" : "answer", group.label));
    entry.append(make("span", "figures", plural(group.votes, "rollout")));
    const score = make("span", "value", figure(mean));
    grade(score, mean);
    entry.append(score);
    box.append(entry);
  }
  if (!order.length) box.append(make("span", "figures", "no rollout has ended yet"));
}

function draw_head() {
  document.getElementById("problem").textContent = tree.id;
  document.getElementById("question").textContent = tree.text[0];
  const facts = [
    ["rollouts", tree.rollouts.toLocaleString("en")], ["mean score", figure(tree.value[0])],
    ["steps", (size - 1).toLocaleString("en")], ["rounds", tree.rounds],
    ["tokens", tree.tokens.toLocaleString("en")],
  ];
  if (tree.gold !== null) facts.unshift(["right answer", tree.gold]);
  for (const [name, value] of facts) {
    const fact = make("div");
    fact.append(make("dt", "", name), make("dd", "", value));
    document.getElementById("facts").append(fact);
  }
}

/* The end with the best score, and of equals the one whose path was most travelled. */
function most_telling() {
  let best = 0;
  const rank = (node) => [tree.verdict[node]?.score ?? -Infinity, tree.visits[tree.parent[node]] ?? 0];
  for (let node = 1; node < size; node++) {
    if (!outcome(node)) continue;
    const [score, visits] = rank(node);
    const [top, most] = best ? rank(best) : [-Infinity, -1];
    if (score > top || (score === top && visits > most)) best = node;
  }
  return best;
}

/* The start */

draw_head();
draw_legend();
draw_answers();
draw(0, outline);
unfold_some();
const asked = /^#\d+$/.test(location.hash) ? Number(location.hash.slice(1)) : size;
if (asked < size) select(asked, true);
else select(most_telling());
outline.addEventListener("keydown", walk);
document.getElementById("unfold").addEventListener("click", unfold_all);
document.getElementById("fold").addEventListener("click", () => {
  for (const node of items.keys()) fold(node);
  select(selected);
});
