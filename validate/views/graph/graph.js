"use strict";
// Draws the stages of a model side by side: blocks are laid out one at a time, when they are opened,
// and only what can be seen is in the page. All text comes in as text, never as markup.
(() => {
const byId = (id) => document.getElementById(id);
const root = byId("graph"), data = JSON.parse(byId("graph-data").textContent);
const AT_FIRST = 130;      // Boxes that are open at first.
const WIDE = 760;          // From this width on, two stages stand side by side.
const SMALL = 0.5, TINY = 0.28;  // Below these scales names, and all texts, are left out.
const LEVELS = "0123456789abcdefghijklmnopqrstuvwxyz";
const weights = data.weights || [], ranges = data.ranges || {};

// Elements ------------------------------------------------------------------------------------

function html(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}
function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}
function filled(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}
const button = (text, onclick, label) => html("button", { type: "button", onclick, "aria-label": label, title: label }, text);
const cut = (text, most) => text.length <= most ? text : `${text.slice(0, most / 2 - 1)}…${text.slice(-most / 2)}`;
const lastOf = (name) => name.replace(/\/+$/, "").split("/").pop();
const number = (value) => Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3) ? value.toExponential(2) : String(+value.toPrecision(4));
function counted(value) {
  const [size, unit] = [[1e9, " G"], [1e6, " M"], [1e3, " k"]].find(([size]) => value >= size) || [1, ""];
  return +(value / size).toPrecision(3) + unit;
}

// Stages --------------------------------------------------------------------------------------
// An item is a node or a block. A block has items; both know the block around them.

class Stage {
  constructor(plain, place) {
    Object.assign(this, { title: plain.title, kind: plain.kind, notes: plain.notes || [], place });
    this.tensors = plain.tensors || [];
    this.whole = this.block("", null, -1);
    this.whole.open = true;
    this.blocks = (plain.blocks || []).reduce((found, [name, parent], at) => {
      found.push(this.block(name, parent < 0 ? this.whole : found[parent], at));
      return found;
    }, []);
    this.nodes = (plain.nodes || []).map((node, at) => this.node(node, at));
    this.folded = plain.folded || 0;
    this.link();
  }
  block(name, inside, at) {
    const item = { id: `b${at}`, stage: this, name, inside, items: [], open: false, nodes: [], edges: [], ins: new Map(), outs: new Map(), layout: null };
    if (inside) inside.items.push(item);
    return item;
  }
  node(plain, at) {
    const inside = plain.b < 0 ? this.whole : this.blocks[plain.b];
    const item = { id: `n${at}`, at, stage: this, name: plain.n, plain, inside, before: [], behind: [] };
    inside.items.push(item);
    for (let block = inside; block; block = block.inside) block.nodes.push(item);
    return item;
  }
  link() {
    const makers = new Map();
    for (const node of this.nodes) for (const tensor of node.plain.u || []) if (!makers.has(tensor)) makers.set(tensor, node);
    for (const node of this.nodes) for (const tensor of node.plain.i || []) {
      const maker = makers.get(tensor);
      if (!maker || maker === node || node.before.includes(maker)) continue;
      node.before.push(maker);
      maker.behind.push(node);
      this.edge(maker, node);
    }
  }
  // Writes an edge into each block that it touches: between two of its items, or over its border.
  edge(from, to) {
    const around = new Set();
    for (let block = from.inside; block; block = block.inside) around.add(block);
    let common = to.inside;
    while (!around.has(common)) common = common.inside;
    const climb = (node) => {
      const path = [];
      for (let item = node; item !== common; item = item.inside) path.push(item);
      return path;
    };
    const [up, down] = [climb(from), climb(to)], [one, other] = [up.at(-1), down.at(-1)];
    common.edges.push([one, other]);
    up.slice(1).forEach((block, at) => add(block.outs, other, up[at]));
    down.slice(1).forEach((block, at) => add(block.ins, one, down[at]));
  }
}
function add(map, key, value) {
  if (!map.has(key)) map.set(key, new Set());
  map.get(key).add(value);
}
const nodesOf = (item) => item.items ? item.nodes : [item];
const isBlock = (item) => Boolean(item.items);
const shapeOf = (node) => { const made = (node.plain.u || node.plain.i || [])[0]; return made === undefined ? "" : node.stage.tensors[made][1] || ""; };

// How an item is coloured: by what it, or what is in it, is measured as.
const MEASURES = {
  error: { of: (node) => node.plain.e ? node.plain.e[0] : null, sum: Math.max, words: (v) => `${number(100 * v)} % of the range` },
  time: { of: (node) => node.plain.t ?? null, sum: (a, b) => a + b, words: (v) => `${number(v)} ms` },
  macs: { of: (node) => node.plain.m || null, sum: (a, b) => a + b, words: (v) => `${counted(v)} MACs` },
};
function measured(item, kind) {
  const values = nodesOf(item).map(MEASURES[kind].of).filter((value) => value !== null);
  return values.length ? values.reduce(MEASURES[kind].sum) : null;
}
function precisionOf(item) {
  const found = new Set(nodesOf(item).map((node) => node.plain.p).filter(Boolean));
  return found.size > 1 ? "mixed" : [...found][0] || "";
}
function scaleOf(stage, kind) {
  const values = stage.nodes.map(MEASURES[kind].of).filter((value) => value > 0);
  return values.length ? [Math.min(...values), Math.max(...values)] : null;
}
function classOf(item, colour, scale) {
  if (colour === "precision") return `p-${precisionOf(item)}`;
  const value = measured(item, colour);
  if (value === null || !scale) return "";
  const [low, high] = scale.map((end) => Math.log(Math.max(end, scale[1] / 1e4)));
  const part = value > 0 ? (Math.log(value) - low) / (high - low || 1) : 0;
  return `h${Math.max(0, Math.min(5, Math.round(5 * part)))}`;
}

// Layout --------------------------------------------------------------------------------------

// A layer's name is the library's own, and tells less than the framework's.
const calledIn = (node) => node.stage.kind === "engine" && node.plain.f ? node.plain.f : lastOf(node.name);
const HEAD = 26, PAD = 14, SIGN = 20;
function linesOf(item) {
  if (isBlock(item)) {
    const counts = new Map();
    for (const node of item.nodes) counts.set(node.plain.o, (counts.get(node.plain.o) || 0) + 1);
    const most = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 2).map(([op, count]) => `${count} ${lastOf(op)}`);
    return [cut(item.name, 30), `${item.nodes.length} nodes: ${most.join(", ")}`];
  }
  const op = cut(item.plain.o.replace("com.microsoft.", ""), 26), name = cut(calledIn(item), 26);
  return [op, ...(name && name !== op ? [name] : []), ...(shapeOf(item) ? [cut(shapeOf(item), 26)] : [])];
}
function sizeOf(item) {
  if (isBlock(item) && item.open) {
    const { width, height } = layoutOf(item);
    return { width: Math.max(width + 2 * PAD, 8 * Math.min(item.name.length, 40) + 60), height: height + HEAD + PAD };
  }
  const lines = linesOf(item), sign = isBlock(item) ? SIGN : 0;
  const width = Math.max(84, ...lines.map((line, at) => line.length * (at ? 7 : 8) + 22 + sign));
  return { width, height: 12 + 15 * lines.length };
}
// What a block is made of for dagre: boxes by their places, ports to what is beyond its border, and
// edges, each with the two items that it joins.
function sketchOf(block) {
  const place = new Map(block.items.map((item, at) => [item, String(at)])), boxes = [], edges = new Map();
  for (const item of block.items) boxes.push([place.get(item), sizeOf(item)]);
  const connect = (one, other, pair, weight = 1) => { if (!edges.has(`${one} ${other}`)) edges.set(`${one} ${other}`, { one, other, pair, weight }); };
  for (const [one, other] of block.edges) connect(place.get(one), place.get(other), [one, other]);
  for (const [side, ports] of [["in", block.ins], ["out", block.outs]]) {
    if (ports.size > 1) boxes.push([side, { width: 1, height: 1 }]); // Holds them at one height.
    [...ports].forEach(([far, near], at) => {
      const port = `${side}${at}`, joins = (one, other, pair, weight) => side === "in" ? connect(one, other, pair, weight) : connect(other, one, pair && pair.reverse(), weight);
      boxes.push([port, { width: 8, height: 1 }]);
      if (ports.size > 1) joins(side, port, null, 50);
      for (const item of near) joins(port, place.get(item), [far, item]);
    });
  }
  return { boxes, edges: [...edges.values()] };
}
// Blocks that are made alike, as those of a network that repeats, are laid out once.
const laidOut = new Map();
function laid({ boxes, edges }) {
  const key = JSON.stringify([boxes, edges.map(({ one, other }) => [one, other])]);
  if (!laidOut.has(key)) {
    const graph = new dagre.graphlib.Graph();
    graph.setGraph({ rankdir: "TB", nodesep: 22, edgesep: 14, ranksep: 30, ranker: boxes.length > 90 ? "longest-path" : "network-simplex" });
    for (const [name, size] of boxes) graph.setNode(name, { ...size });
    for (const { one, other, weight } of edges) graph.setEdge(one, other, { weight, minlen: 1 });
    dagre.layout(graph);
    laidOut.set(key, { at: new Map(boxes.map(([name]) => [name, graph.node(name)])), lines: edges.map(({ one, other }) => graph.edge(one, other).points) });
  }
  return laidOut.get(key);
}
// Where the items of a block stand, and the edges between them and to its border.
function layoutOf(block) {
  if (block.layout) return block.layout;
  const sketch = sketchOf(block), { at, lines } = laid(sketch);
  const boxes = block.items.map((item, place) => ({ item, ...at.get(String(place)) }));
  let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
  for (const box of boxes) {
    box.x -= box.width / 2; box.y -= box.height / 2;
    left = Math.min(left, box.x); top = Math.min(top, box.y);
    right = Math.max(right, box.x + box.width); bottom = Math.max(bottom, box.y + box.height);
  }
  for (const points of lines) for (const point of points) {
    left = Math.min(left, point.x - 4); right = Math.max(right, point.x + 4);
  }
  for (const box of straightened(boxes, block, lines)) {
    left = Math.min(left, box.x); right = Math.max(right, box.x + box.width);
  }
  if (!boxes.length) [left, top, right, bottom] = [0, 0, 60, 20];
  const rail = (ports) => ports.size ? 16 : 0;
  const dx = -left, dy = rail(block.ins) - top, height = bottom + dy + rail(block.outs);
  for (const box of boxes) { box.x += dx; box.y += dy; }
  const portsOf = (side, ports) => new Map([...ports].map(([far], place) => [far, at.get(`${side}${place}`).x + dx]));
  const layout = { width: right - left, height, boxes, ins: portsOf("in", block.ins), outs: portsOf("out", block.outs), edges: [] };
  const place = new Map(boxes.map((box) => [box.item, box]));
  sketch.edges.forEach(({ pair }, number) => {
    if (!pair) return;
    const points = lines[number].map(({ x, y }) => ({ x: x + dx, y: Math.min(Math.max(y + dy, 0), height) }));
    const [one, other] = pair, [from, to] = [place.get(one), place.get(other)]; // None is beyond the border.
    if (points.length === 3 && from && to) points.splice(1, 1);
    if (from) points[0] = ends(from, one, other, false);
    if (to) points[points.length - 1] = ends(to, other, one, true);
    if (!from) points.unshift({ x: layout.ins.get(one), y: -HEAD });
    if (!to) points.push({ x: layout.outs.get(other), y: height + PAD });
    layout.edges.push({ one, other, points });
  });
  block.layout = layout;
  return layout;
}
// Moves what stands alone at its height above what it leads to: dagre aims at the middle of a box, and
// edges enter an open block elsewhere.
function straightened(boxes, block, lines) {
  const long = lines.filter((points) => points.length > 3).flatMap((points) => points.slice(1, -1));
  const place = new Map(boxes.map((box) => [box.item, box])), rows = [...boxes].sort((a, b) => a.y - b.y);
  const alone = (box) => !long.some(({ y }) => y > box.y && y < box.y + box.height) && rows.every((other) => other === box || other.y >= box.y + box.height || other.y + other.height <= box.y);
  const moved = rows.filter(alone);
  for (const box of moved) {
    const apart = block.edges.filter(([, other]) => other === box.item).map(([one]) =>
      ends(place.get(one), one, box.item, false).x - ends(box, box.item, one, true).x);
    if (apart.length) box.x += apart.reduce((a, b) => a + b) / apart.length;
  }
  const first = moved[0], leads = first ? block.edges.filter(([one]) => one === first.item) : [];
  if (leads.length === 1) first.x += ends(place.get(leads[0][1]), leads[0][1], first.item, true).x - ends(first, first.item, leads[0][1], false).x;
  return moved;
}
// Where an edge leaves or enters a box: at the port of an open block, else in the middle.
function ends(box, item, far, top) {
  const y = top ? box.y : box.y + box.height;
  if (!isBlock(item) || !item.open) return { x: box.x + box.width / 2, y };
  const inner = layoutOf(item), port = (top ? inner.ins : inner.outs).get(far);
  return { x: box.x + (box.width - inner.width) / 2 + (port ?? inner.width / 2), y };
}
function path(points, dx, dy) {
  let d = `M${(points[0].x + dx).toFixed(1)} ${(points[0].y + dy).toFixed(1)}`;
  for (let at = 1; at < points.length; at++) {
    const [a, b] = [points[at - 1], points[at]], middle = (a.y + b.y) / 2 + dy;
    d += `C${(a.x + dx).toFixed(1)} ${middle.toFixed(1)} ${(b.x + dx).toFixed(1)} ${middle.toFixed(1)} ${(b.x + dx).toFixed(1)} ${(b.y + dy).toFixed(1)}`;
  }
  return d;
}
function setOpen(block, open) {
  if (block.open === open || !block.inside) return;
  block.open = open;
  for (let around = block.inside; around; around = around.inside) around.layout = null;
}
function openAtFirst(stage) {
  let shown = stage.whole.items.length;
  const waiting = stage.whole.items.filter(isBlock);
  while (waiting.length) {
    const block = waiting.shift();
    if (shown + block.items.length > AT_FIRST) continue;
    shown += block.items.length;
    setOpen(block, true);
    waiting.push(...block.items.filter(isBlock));
  }
}

// A pane: one stage, drawn ----------------------------------------------------------------------

let colour = "precision", panes = [], active = null, chosen = null;

class Pane {
  constructor(number, stage) {
    this.number = number;
    this.choice = html("select", { "aria-label": `graph ${number + 1}`, onchange: () => { this.show(stages[+this.choice.value]); chosen && follow(this); } },
      ...stages.map((each) => html("option", { value: each.place }, `${each.title} (${each.nodes.filter((node) => !node.plain.r).length} nodes)`)));
    this.told = html("p", { class: "g-told" });
    this.edges = svg("g");
    this.boxes = svg("g");
    this.view = svg("g", {}, this.edges, this.boxes);
    this.svg = svg("svg", { tabindex: "0", role: "application", "aria-roledescription": "graph" }, this.view);
    this.element = html("div", { class: "g-pane" },
      html("div", { class: "g-head" }, this.choice,
        button("−", () => this.zoom(1 / 1.3), "smaller"), button("+", () => this.zoom(1.3), "larger"), button("⤢", () => this.fit(true), "show all"),
        button("Open", () => this.openAll(true), "open all blocks"), button("Fold", () => this.openAll(false), "fold all blocks")),
      this.told, this.svg);
    this.listen();
    this.stage = null;
    this.first = stage;
  }
  show(stage) {
    this.stage = stage;
    this.choice.value = stage.place;
    this.svg.setAttribute("aria-label", `${stage.title}: walk with the arrow keys`);
    if (!stage.begun) { stage.begun = true; openAtFirst(stage); }
    this.lit = new Set();
    this.tell("");
    this.arrange();
    this.fit();
    legend();
  }
  tell(text) { this.told.textContent = [text, ...this.stage.notes].filter(Boolean).join(" "); }
  // Lays out what is open, and notes where everything stands.
  arrange() {
    this.drawn = [];
    this.lines = [];
    this.where = new Map();
    this.walk(this.stage.whole, 0, 0);
    const { width, height } = layoutOf(this.stage.whole);
    Object.assign(this, { width, height });
    this.edges.replaceChildren();
    this.boxes.replaceChildren();
    this.shown = new Map();
    this.scale_ = colour === "precision" ? null : scaleOf(this.stage, colour);
  }
  walk(block, dx, dy) {
    const layout = layoutOf(block);
    for (const { one, other, points } of layout.edges) {
      const ys = points.map((point) => point.y + dy), xs = points.map((point) => point.x + dx);
      this.lines.push({ key: {}, one, other, d: path(points, dx, dy), x: Math.min(...xs), y: Math.min(...ys), width: Math.max(...xs) - Math.min(...xs), height: Math.max(...ys) - Math.min(...ys) });
    }
    for (const { item, x, y, width, height } of layout.boxes) {
      const box = { key: item, item, x: x + dx, y: y + dy, width, height };
      this.drawn.push(box);
      this.where.set(item, box);
      if (isBlock(item) && item.open) this.walk(item, box.x + (width - layoutOf(item).width) / 2, box.y + HEAD);
    }
  }
  // Puts what can be seen into the page, and takes out what can't.
  paint() {
    if (!this.stage) return;
    const { width, height } = this.svg.getBoundingClientRect(), margin = 200 / this.k;
    const [left, top] = [-this.x / this.k - margin, -this.y / this.k - margin];
    const [right, bottom] = [left + width / this.k + 2 * margin, top + height / this.k + 2 * margin];
    const seen = (box) => box.x <= right && box.y <= bottom && box.x + box.width >= left && box.y + box.height >= top;
    const wanted = new Set();
    for (const [list, layer, make] of [[this.lines, this.edges, this.line], [this.drawn, this.boxes, this.box]]) {
      for (const each of list) {
        if (!seen(each)) continue;
        wanted.add(each.key);
        if (!this.shown.has(each.key)) {
          const element = make.call(this, each);
          this.shown.set(each.key, element);
          layer.append(element);
        }
      }
    }
    for (const [key, element] of this.shown) if (!wanted.has(key)) { element.remove(); this.shown.delete(key); }
    this.view.setAttribute("transform", `translate(${this.x.toFixed(1)} ${this.y.toFixed(1)}) scale(${this.k.toFixed(4)})`);
    this.svg.classList.toggle("g-far", this.k < SMALL);
    this.svg.classList.toggle("g-farther", this.k < TINY);
    this.svg.setAttribute("aria-activedescendant", chosen && chosen.stage === this.stage ? this.idOf(this.visible(chosen)) : "");
  }
  again() { cancelAnimationFrame(this.waiting); this.waiting = requestAnimationFrame(() => this.paint()); }
  idOf(item) { return `g${this.number}${item.id}`; }
  line(line) {
    const near = chosen && (line.one === chosen || line.other === chosen);
    return svg("path", { class: near ? "g-edge g-near" : "g-edge", d: line.d });
  }
  box({ item, x, y, width, height }) {
    const marks = [item === chosen && "g-chosen", this.isLit(item) && "g-linked"].filter(Boolean).join(" ");
    const select = (event) => { event.stopPropagation(); if (!this.dragged) choose(item, this); };
    const words = describe(item);
    if (isBlock(item) && item.open) {
      return svg("g", { class: `g-open ${marks}`, id: this.idOf(item), transform: `translate(${x} ${y})`, role: "img", "aria-label": words, onclick: select, ondblclick: () => this.toggle(item) },
        svg("title", {}, words), svg("rect", { class: "g-frame", width, height, rx: 8 }), svg("rect", { class: "g-title", width, height: HEAD }), this.sign(item, 8, 18, "−"),
        svg("text", { x: SIGN + 6, y: 17 }, cut(item.name, 40)));
    }
    const lines = linesOf(item), sign = isBlock(item) ? SIGN : 0, role = item.plain && item.plain.r;
    const kind = [isBlock(item) ? "g-closed" : role ? (role === "input" || role === "output" ? "g-end" : "g-moved") : "", classOf(item, colour, this.scale_), marks].join(" ");
    return svg("g", { class: `g-node ${kind}`, id: this.idOf(item), transform: `translate(${x} ${y})`, role: "img", "aria-label": words, onclick: select, ondblclick: () => this.toggle(item) },
      svg("title", {}, words),
      ...(isBlock(item) ? [svg("rect", { class: "g-sheet", x: 4, y: 4, width, height, rx: 7 })] : []),
      svg("rect", { width, height, rx: role ? 14 : 6 }), ...(isBlock(item) ? [this.sign(item, 8, height / 2 + 5, "+")] : []),
      ...lines.map((line, at) => svg("text", { x: sign + (width - sign) / 2, y: 18 + 15 * at, "text-anchor": "middle", class: at ? "g-small" : "g-op" }, line)));
  }
  sign(block, x, y, text) {
    return svg("text", { class: "g-sign", x, y, onclick: (event) => { event.stopPropagation(); if (!this.dragged) this.toggle(block); } }, text);
  }
  isLit(item) { return isBlock(item) && item.open ? false : nodesOf(item).some((node) => this.lit.has(node)); }
  // The item that stands for one in the picture: itself, or the folded block that it is in.
  visible(item) {
    let found = item;
    for (let block = item.inside; block; block = block.inside) if (!block.open) found = block;
    return found;
  }
  toggle(block) {
    if (!isBlock(block)) return;
    const before = this.where.get(block);
    setOpen(block, !block.open);
    for (const pane of panes) if (pane.stage === this.stage) pane.arrange();
    const after = this.where.get(block);
    if (before && after) { // What was looked at stays where it was.
      this.x += (before.x + before.width / 2 - after.x - after.width / 2) * this.k;
      this.y += (before.y - after.y) * this.k;
    }
    for (const pane of panes) pane.paint();
    say(`${block.name} ${block.open ? "opened" : "folded"}`);
  }
  openAll(open) {
    for (const block of this.stage.blocks) block.open = open;
    this.stage.whole.layout = null;
    for (const block of this.stage.blocks) block.layout = null;
    for (const pane of panes) if (pane.stage === this.stage) { pane.arrange(); pane.fit(); }
  }
  fit(whole) {
    const { width, height } = this.svg.getBoundingClientRect();
    const across = Math.min(1, (width - 24) / this.width);
    this.k = whole ? Math.min(1, across, (height - 24) / this.height) : Math.max(across, Math.min(0.8, (width - 24) / 420));
    this.x = (width - this.width * this.k) / 2;
    this.y = whole ? Math.max(12, (height - this.height * this.k) / 2) : 12;
    if (!whole && this.width * this.k > width) {
      const first = this.drawn.find((box) => box.item.plain && box.item.plain.r === "input") || this.drawn[0];
      if (first) this.x = width / 2 - (first.x + first.width / 2) * this.k;
    }
    this.paint();
  }
  zoom(factor, x, y) {
    const { width, height } = this.svg.getBoundingClientRect();
    const [cx, cy] = [x ?? width / 2, y ?? height / 2], k = Math.min(3, Math.max(0.01, this.k * factor));
    this.x = cx - (cx - this.x) * k / this.k;
    this.y = cy - (cy - this.y) * k / this.k;
    this.k = k;
    this.again();
  }
  move(dx, dy) { this.x += dx; this.y += dy; this.again(); }
  // Brings an item into the picture; what it is in is opened.
  reveal(item) {
    let opened = false;
    for (let block = item.inside; block; block = block.inside) if (!block.open) { setOpen(block, true); opened = true; }
    if (opened) for (const pane of panes) if (pane.stage === this.stage) pane.arrange();
    this.centre(item);
  }
  centre(item) {
    const box = this.where.get(this.visible(item)), { width, height } = this.svg.getBoundingClientRect();
    if (!box) return;
    if (this.k < 0.55) this.k = 0.8;
    this.x = width / 2 - (box.x + box.width / 2) * this.k;
    this.y = height / 2 - (box.y + Math.min(box.height, height / this.k) / 2) * this.k;
    this.paint();
  }
  inView(box) {
    const { width, height } = this.svg.getBoundingClientRect();
    return box.x * this.k + this.x >= 0 && box.y * this.k + this.y >= 0 && (box.x + box.width) * this.k + this.x <= width && (box.y + box.height) * this.k + this.y <= height;
  }
  redraw() {
    for (const [key, element] of this.shown) { element.remove(); this.shown.delete(key); }
    this.scale_ = colour === "precision" ? null : scaleOf(this.stage, colour);
    this.paint();
  }
  listen() {
    const fingers = new Map();
    let apart = 0;
    this.svg.addEventListener("focus", () => { active = this; });
    this.svg.addEventListener("pointerdown", (event) => {
      active = this;
      this.dragged = false;
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      apart = 0;
    });
    this.svg.addEventListener("pointermove", (event) => {
      const before = fingers.get(event.pointerId);
      if (!before) return;
      if (!this.dragged && Math.hypot(event.clientX - before[0], event.clientY - before[1]) < 4) return;
      if (!this.dragged) { this.dragged = true; this.svg.setPointerCapture(event.pointerId); }
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      if (fingers.size === 2) {
        const [a, b] = [...fingers.values()], now = Math.hypot(a[0] - b[0], a[1] - b[1]), place = this.svg.getBoundingClientRect();
        if (apart) this.zoom(now / apart, (a[0] + b[0]) / 2 - place.x, (a[1] + b[1]) / 2 - place.y);
        apart = now;
      } else this.move(event.clientX - before[0], event.clientY - before[1]);
    });
    for (const end of ["pointerup", "pointercancel"]) this.svg.addEventListener(end, (event) => { fingers.delete(event.pointerId); apart = 0; });
    this.svg.addEventListener("wheel", (event) => {
      const place = this.svg.getBoundingClientRect();
      if (event.ctrlKey || event.metaKey) this.zoom(Math.exp(-event.deltaY / 300), event.clientX - place.x, event.clientY - place.y);
      else if (document.activeElement === this.svg || root.closest("[data-alone]")) this.move(-event.deltaX, -event.deltaY);
      else return;
      event.preventDefault();
    }, { passive: false });
    this.svg.addEventListener("click", () => { if (!this.dragged && chosen) choose(null, this); });
    this.svg.addEventListener("keydown", (event) => this.key(event));
  }
  key(event) {
    const arrows = { ArrowDown: [0, 1], ArrowUp: [0, -1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }, arrow = arrows[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const item = chosen && chosen.stage === this.stage ? this.visible(chosen) : null;
    if (arrow && event.shiftKey) this.move(-80 * arrow[0], -80 * arrow[1]);
    else if (arrow) this.step(item, ...arrow);
    else if (event.key === "Enter" || event.key === " ") { if (item && isBlock(item)) this.toggle(item); else if (item) byId("g-details").focus(); }
    else if (event.key === "Backspace") { if (item && item.inside.inside) { const block = item.inside; this.toggle(block); choose(block, this); } }
    else if (event.key === "+" || event.key === "=") this.zoom(1.3);
    else if (event.key === "-") this.zoom(1 / 1.3);
    else if (event.key === "0") this.fit(true);
    else if (event.key === "/") byId("g-search").focus();
    else if (event.key === "Escape") choose(null, this);
    else return;
    event.preventDefault();
  }
  step(item, dx, dy) {
    let next;
    if (!item) next = this.drawn.find((box) => box.item.plain && box.item.plain.r === "input") || this.drawn[0];
    else if (dy) {
      const inside = new Set(nodesOf(item));
      const near = nodesOf(item).flatMap((node) => dy > 0 ? node.behind : node.before).filter((node) => !inside.has(node));
      next = near.length ? this.where.get(this.visible(near[0])) : null;
    } else {
      const here = this.where.get(item), middle = (box) => [box.x + box.width / 2, box.y + box.height / 2], [x, y] = middle(here);
      const beside = this.drawn.filter((box) => box.item !== item && (middle(box)[0] - x) * dx > 8 && Math.abs(middle(box)[1] - y) < 90 && !(isBlock(box.item) && box.item.open));
      const far = (box) => Math.abs(middle(box)[0] - x) + 3 * Math.abs(middle(box)[1] - y);
      next = beside.sort((a, b) => far(a) - far(b))[0];
    }
    if (!next) return say("nothing there");
    choose(next.item, this);
    if (!this.inView(next)) this.centre(next.item);
  }
}

// What an item is, in words ----------------------------------------------------------------------

function describe(item) {
  if (isBlock(item)) return `block ${item.name}, ${item.nodes.length} nodes, ${item.open ? "open" : "folded"}`;
  const { plain } = item;
  return [`${plain.o} ${item.name}`, plain.f && plain.f !== item.name ? `originally ${plain.f}` : "", plain.p, shapeOf(item)].filter(Boolean).join(", ");
}
function say(text) { byId("g-live").textContent = text; }

function choose(item, pane) {
  chosen = item;
  active = pane;
  for (const other of panes) if (other !== pane) follow(other);
  pane.lit = new Set();
  for (const each of panes) each.redraw();
  details(item);
  say(item ? describe(item) : "nothing chosen");
}
// Shows in a pane what became of the chosen item, or what it was.
function follow(pane) {
  pane.lit = new Set();
  if (!chosen || chosen.stage === pane.stage) { pane.tell(""); if (pane.shown) pane.redraw(); return; }
  const found = became(chosen, pane.stage);
  pane.lit = new Set(found);
  const noted = nodesOf(chosen).flatMap((node) => node.plain.s || []);
  pane.tell(found.length ? `${lastOf(chosen.name)}: ${own(found).length > 1 ? `${own(found).length} nodes` : cut(own(found)[0].name, 60)} here.`
    : `${lastOf(chosen.name)} is not in this graph${noted.length ? `: ${noted[0]}` : ""}.`);
  if (found.length && found.length <= 12 && !isBlock(chosen)) pane.reveal(own(found)[0]);
  else if (found.length) pane.centre(own(found)[0]);
}
const linksOf = new Map(); // of a stage: others, with what each node became in it
for (const [before, after, pairs] of data.links || []) {
  for (const [one, other, turned] of [[before, after, false], [after, before, true]]) {
    const map = new Map();
    for (const pair of pairs) add(map, pair[turned ? 1 : 0], pair[turned ? 0 : 1]);
    linksOf.set(one, [...(linksOf.get(one) || []), [other, map]]);
  }
}
function became(item, stage) {
  const waiting = [[item.stage.place, new Set(nodesOf(item).map((node) => node.at))]], seen = new Set([item.stage.place]);
  while (waiting.length) {
    const [place, nodes] = waiting.shift();
    if (place === stage.place) return [...nodes].sort((a, b) => a - b).map((at) => stage.nodes[at]);
    for (const [other, map] of linksOf.get(place) || []) {
      if (seen.has(other)) continue;
      seen.add(other);
      waiting.push([other, new Set([...nodes].flatMap((node) => [...(map.get(node) || [])]))]);
    }
  }
  return [];
}

// The details of what was chosen -----------------------------------------------------------------

function table(rows) {
  return html("table", {}, html("tbody", {}, ...rows.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([name, value]) => html("tr", {}, html("td", {}, name), html("td", {}, value)))));
}
function histogram(levels, low, high, marks = []) {
  const wide = 10, place = (value) => Math.max(0, Math.min(1, (value - low) / (high - low || 1))) * wide * levels.length;
  return svg("svg", { viewBox: `0 0 ${wide * levels.length} 46`, preserveAspectRatio: "none", role: "img", "aria-label": `histogram from ${number(low)} to ${number(high)}` },
    ...[...levels].map((level, at) => { const tall = LEVELS.indexOf(level) / 35 * 44; return svg("rect", { x: at * wide, y: 46 - tall, width: wide - 1.5, height: tall }); }),
    ...marks.map((mark) => svg("line", { x1: place(mark), x2: place(mark), y1: 0, y2: 46 })));
}
function goTo(node, pane) {
  return button(`${node.plain.o} ${cut(node.name, 60)}`, () => { pane.reveal(node); choose(node, pane); pane.svg.focus({ preventScroll: true }); }, `go to ${node.name}`);
}
function goToStage(node) {
  const here = panes.find((pane) => pane.stage === node.stage) || panes.find((pane) => pane !== active) || active;
  return button(`${node.plain.o} ${cut(node.name, 60)}`, () => {
    if (here.stage !== node.stage) here.show(node.stage);
    here.reveal(node);
    choose(node, here);
  }, `go to ${node.name} in ${node.stage.title}`);
}
// Nodes without the quantizers that are there for them.
const own = (nodes) => { const found = nodes.filter((node) => !/uantizeLinear$/.test(node.plain.o)); return found.length ? found : nodes; };
function tensorRows(node, places) {
  return (places || []).flatMap((place) => {
    const [name, shape, type, origin] = node.stage.tensors[place];
    const range = ranges[name];
    return [table([["name", html("code", {}, name)], ["original", origin && origin !== name ? html("code", {}, origin) : ""], ["shape", shape], ["type", type],
      ...(range ? [["seen", `${number(range.r[0])} to ${number(range.r[1])}`], ...range.k.map(([target, low, high, why]) => [`kept, ${target}`, `${number(low)} to ${number(high)}${why ? `: ${why}` : ""}`])] : [])]),
      ...(range && range.c ? [histogram(range.c, ...range.r, range.k.flatMap(([, low, high]) => [low, high]))] : [])];
  });
}
function section(title, ...content) { return content.length ? [html("h4", {}, title), ...content] : []; }
function details(item) {
  const panel = byId("g-details");
  panel.scrollTop = 0;
  if (!item) return panel.replaceChildren(html("p", { class: "g-soft" }, "Choose a node to see what it is, and what became of it."));
  const pane = active, { stage } = item;
  const others = stages.filter((other) => other !== stage).map((other) => [other, became(item, other)]);
  const links = section("In the other graphs", ...others.map(([other, found]) => html("p", {}, `${other.title}: `,
    ...(found.length ? own(found).slice(0, 6).map(goToStage) : [html("span", { class: "g-soft" }, "nothing")]), found.length > Math.min(6, own(found).length) ? ` and ${found.length - Math.min(6, own(found).length)} more` : "")));
  if (isBlock(item)) {
    const counts = new Map();
    for (const node of item.nodes) counts.set(node.plain.o, (counts.get(node.plain.o) || 0) + 1);
    return panel.replaceChildren(html("h3", {}, item.name),
      html("p", {}, button(item.open ? "Fold" : "Open", () => { pane.toggle(item); details(item); })),
      table([["nodes", item.nodes.length], ["operators", [...counts].sort((a, b) => b[1] - a[1]).map(([op, count]) => `${count} ${op}`).join(", ")], ["precision", precisionOf(item)],
        ...Object.entries(MEASURES).map(([kind, { words }]) => { const value = measured(item, kind); return [kind === "error" ? "largest error" : kind, value === null ? "" : words(value)]; })]), ...links);
  }
  const { plain } = item, error = plain.e || [];
  panel.replaceChildren(html("h3", {}, `${plain.o} ${item.name}`),
    table([["original", plain.f ? html("code", {}, plain.f) : ""], ["is in", pathOf(item)], ["precision", plain.g && plain.g !== plain.p ? `${plain.p} (the graph: ${plain.g})` : plain.p],
      ["MACs", plain.m ? counted(plain.m) : ""], ["time", plain.t === undefined ? "" : `${number(plain.t)} ms`],
      ["own error", error[0] === undefined || error[0] === null ? "" : `${number(100 * error[0])} % of the range`],
      ["own SQNR", error[1] === undefined || error[1] === null ? "" : `${number(error[1])} dB`], ["arrives", error[2] === undefined || error[2] === null ? "" : `${number(error[2])} dB`]]),
    ...(plain.s ? section("What was done, and why", html("ul", {}, ...plain.s.map((note) => html("li", {}, note)))) : []),
    ...links,
    ...(plain.a ? section("Attributes", table(Object.entries(plain.a))) : []),
    ...section("Makes", ...tensorRows(item, plain.u)), ...section("Reads", ...tensorRows(item, plain.i)),
    ...section("Weights and constants", ...(plain.w || []).flatMap((place) => {
      const weight = weights[place];
      return [table([["name", html("code", {}, weight.n)], ["shape", weight.s], ["type", weight.d], ["value", weight.v], ["range", weight.r ? `${number(weight.r[0])} to ${number(weight.r[1])}` : ""]]),
        ...(weight.c ? [histogram(weight.c, ...weight.r)] : [])];
    })),
    ...section("Before it", ...item.before.map((node) => goTo(node, pane))), ...section("Behind it", ...item.behind.slice(0, 12).map((node) => goTo(node, pane))));
}
function pathOf(item) {
  const names = [];
  for (let block = item.inside; block && block.inside; block = block.inside) names.unshift(block.name);
  return names.join(" / ");
}

// The bar above ----------------------------------------------------------------------------------

function legend() {
  const place = byId("g-legend"), kinds = panes.map((pane) => pane.stage).filter(Boolean);
  const mark = (name, words) => html("span", {}, html("i", { class: name }), words);
  if (colour === "precision") {
    const found = new Set(kinds.flatMap((stage) => stage.nodes.map((node) => node.plain.p).filter(Boolean)));
    return place.replaceChildren(...["fp32", "tf32", "fp16", "bf16", "fp8", "int8", "int4"].filter((name) => found.has(name)).map((name) => mark(`p-${name}`, name)),
      ...(found.size > 1 ? [mark("p-mixed", "several")] : []));
  }
  const scales = kinds.map((stage) => scaleOf(stage, colour)), { words } = MEASURES[colour];
  place.replaceChildren(...scales.flatMap((scale, at) => scales.length > 1 && at && kinds[at] === kinds[0] ? [] : scale
    ? [html("span", {}, `${kinds[at].title}: ${words(Math.max(scale[0], scale[1] / 1e4))}`, ...[0, 1, 2, 3, 4, 5].map((step) => html("i", { class: `h${step}` })), words(scale[1]))]
    : [html("span", {}, `${kinds[at].title}: not measured`)]));
}
function search() {
  const list = byId("g-found"), text = byId("g-search").value.trim().toLowerCase();
  list.hidden = !text;
  if (!text) return list.replaceChildren();
  const order = [active, ...panes.filter((pane) => pane !== active)], found = [];
  for (const pane of order) for (const node of pane.stage.nodes) {
    if (`${node.name}\n${node.plain.o}\n${node.plain.f || ""}`.toLowerCase().includes(text)) found.push([node, pane]);
  }
  list.replaceChildren(...found.slice(0, 60).map(([node, pane]) => html("li", {}, button(`${node.plain.o} ${node.name}${node.plain.f && node.plain.f !== node.name ? ` (${node.plain.f})` : ""}, in ${pane.stage.title}`,
    () => { pane.reveal(node); choose(node, pane); pane.svg.focus({ preventScroll: true }); }))),
    ...(found.length > 60 ? [html("li", { class: "g-soft" }, `and ${found.length - 60} more`)] : found.length ? [] : [html("li", { class: "g-soft" }, "nothing found")]));
  say(`${found.length} found`);
}
function arrangePanes(two) {
  byId("g-two").setAttribute("aria-pressed", String(two));
  const count = two ? 2 : 1;
  while (panes.length > count) panes.pop().element.remove();
  while (panes.length < count) {
    const stage = stages[Math.min(panes.length, stages.length - 1)];
    panes.push(new Pane(panes.length, stage));
    byId("g-panes").append(panes.at(-1).element);
  }
  active = panes[0];
  for (const pane of panes) pane.stage ? pane.fit() : pane.show(pane.first);
  legend();
}
const stages = data.stages.map((plain, place) => new Stage(plain, place));

function begin() {
  byId("g-two").hidden = stages.length < 2;
  arrangePanes(stages.length > 1 && byId("g-panes").clientWidth >= WIDE);
  byId("g-two").addEventListener("click", () => arrangePanes(panes.length === 1));
  byId("g-colour").addEventListener("change", (event) => { colour = event.target.value; for (const pane of panes) pane.redraw(); legend(); });
  byId("g-search").addEventListener("input", search);
  byId("g-search").addEventListener("keydown", (event) => {
    const first = byId("g-found").querySelector("button");
    if (event.key === "Enter" && first) first.click();
    if (event.key === "Escape") { event.target.value = ""; search(); active.svg.focus({ preventScroll: true }); }
    if (event.key === "ArrowDown" && first) { first.focus(); event.preventDefault(); }
  });
  byId("g-found").addEventListener("keydown", (event) => {
    const beside = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key], line = event.target.closest("li");
    const next = beside && line && line[beside];
    if (next && next.firstElementChild) { next.firstElementChild.focus(); event.preventDefault(); }
    if (event.key === "Escape") byId("g-search").focus();
  });
  new ResizeObserver(() => { for (const pane of panes) pane.again(); }).observe(byId("g-panes"));
  performance.mark("graph-drawn");
}
// In a part of a report that is folded there is no room to draw yet.
const folded = root.closest("details");
if (folded && !folded.open) folded.addEventListener("toggle", begin, { once: true });
else begin();
})();
