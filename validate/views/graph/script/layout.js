// Where things stand: blocks are laid out one at a time, when they are opened.
// A layer's name is the library's own, and tells less than the framework's.
const calledIn = (node) =>
  node.stage.kind === "engine" && node.plain.f ? node.plain.f : lastOf(node.name);
const HEAD = 26,
  PAD = 14,
  SIGN = 20;
function linesOf(item) {
  if (isBlock(item)) {
    const counts = new Map();
    for (const node of item.nodes) counts.set(node.plain.o, (counts.get(node.plain.o) || 0) + 1);
    const most = [...counts]
      .sort((a, b) => b[1] - a[1])
      .slice(0, 2)
      .map(([op, count]) => `${count} ${lastOf(op)}`);
    return [cut(item.name, 30), `${item.nodes.length} nodes: ${most.join(", ")}`];
  }
  const op = cut(item.plain.o.replace("com.microsoft.", ""), 26),
    name = cut(calledIn(item), 26);
  return [
    op,
    ...(name && name !== op ? [name] : []),
    ...(shapeOf(item) ? [cut(shapeOf(item), 26)] : []),
  ];
}
function sizeOf(item) {
  if (isBlock(item) && item.open) {
    const { width, height } = layoutOf(item);
    return {
      width: Math.max(width + 2 * PAD, 8 * Math.min(item.name.length, 40) + 60),
      height: height + HEAD + PAD,
    };
  }
  const lines = linesOf(item),
    sign = isBlock(item) ? SIGN : 0;
  const width = Math.max(84, ...lines.map((line, at) => line.length * (at ? 7 : 8) + 22 + sign));
  return { width, height: 12 + 15 * lines.length };
}
// What a block is made of for dagre: boxes by their places, ports to what is beyond its border, and
// edges, each with the two items that it joins.
function sketchOf(block) {
  const place = new Map(block.items.map((item, at) => [item, String(at)])),
    boxes = [],
    edges = new Map();
  for (const item of block.items) boxes.push([place.get(item), sizeOf(item)]);
  const connect = (one, other, pair, weight = 1) => {
    if (!edges.has(`${one} ${other}`)) edges.set(`${one} ${other}`, { one, other, pair, weight });
  };
  for (const [one, other] of block.edges) connect(place.get(one), place.get(other), [one, other]);
  for (const [side, ports] of [
    ["in", block.ins],
    ["out", block.outs],
  ]) {
    if (ports.size > 1) boxes.push([side, { width: 1, height: 1 }]); // Holds them at one height.
    [...ports].forEach(([far, near], at) => {
      const port = `${side}${at}`,
        joins = (one, other, pair, weight) =>
          side === "in"
            ? connect(one, other, pair, weight)
            : connect(other, one, pair && pair.reverse(), weight);
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
    graph.setGraph({
      rankdir: "TB",
      nodesep: 22,
      edgesep: 14,
      ranksep: 30,
      ranker: boxes.length > 90 ? "longest-path" : "network-simplex",
    });
    for (const [name, size] of boxes) graph.setNode(name, { ...size });
    for (const { one, other, weight } of edges) graph.setEdge(one, other, { weight, minlen: 1 });
    dagre.layout(graph);
    laidOut.set(key, {
      at: new Map(boxes.map(([name]) => [name, graph.node(name)])),
      lines: edges.map(({ one, other }) => graph.edge(one, other).points),
    });
  }
  return laidOut.get(key);
}
// Where the items of a block stand, and the edges between them and to its border.
function layoutOf(block) {
  if (block.layout) return block.layout;
  const sketch = sketchOf(block),
    { at, lines } = laid(sketch);
  const boxes = block.items.map((item, place) => ({ item, ...at.get(String(place)) }));
  let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
  for (const box of boxes) {
    box.x -= box.width / 2;
    box.y -= box.height / 2;
    left = Math.min(left, box.x);
    top = Math.min(top, box.y);
    right = Math.max(right, box.x + box.width);
    bottom = Math.max(bottom, box.y + box.height);
  }
  for (const points of lines)
    for (const point of points) {
      left = Math.min(left, point.x - 4);
      right = Math.max(right, point.x + 4);
    }
  for (const box of straightened(boxes, block, lines)) {
    left = Math.min(left, box.x);
    right = Math.max(right, box.x + box.width);
  }
  if (!boxes.length) [left, top, right, bottom] = [0, 0, 60, 20];
  const rail = (ports) => (ports.size ? 16 : 0);
  const dx = -left,
    dy = rail(block.ins) - top,
    height = bottom + dy + rail(block.outs);
  for (const box of boxes) {
    box.x += dx;
    box.y += dy;
  }
  const portsOf = (side, ports) =>
    new Map([...ports].map(([far], place) => [far, at.get(`${side}${place}`).x + dx]));
  const layout = {
    width: right - left,
    height,
    boxes,
    ins: portsOf("in", block.ins),
    outs: portsOf("out", block.outs),
    edges: [],
  };
  const place = new Map(boxes.map((box) => [box.item, box]));
  sketch.edges.forEach(({ pair }, number) => {
    if (!pair) return;
    const points = lines[number].map(({ x, y }) => ({
      x: x + dx,
      y: Math.min(Math.max(y + dy, 0), height),
    }));
    const [one, other] = pair,
      [from, to] = [place.get(one), place.get(other)]; // None is beyond the border.
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
// Moves what stands alone at its height above what it leads to: dagre aims at the middle of a box,
// and edges enter an open block elsewhere.
function straightened(boxes, block, lines) {
  const long = lines.filter((points) => points.length > 3).flatMap((points) => points.slice(1, -1));
  const place = new Map(boxes.map((box) => [box.item, box])),
    rows = [...boxes].sort((a, b) => a.y - b.y);
  const alone = (box) =>
    !long.some(({ y }) => y > box.y && y < box.y + box.height) &&
    rows.every(
      (other) => other === box || other.y >= box.y + box.height || other.y + other.height <= box.y,
    );
  const moved = rows.filter(alone);
  for (const box of moved) {
    const apart = block.edges
      .filter(([, other]) => other === box.item)
      .map(
        ([one]) => ends(place.get(one), one, box.item, false).x - ends(box, box.item, one, true).x,
      );
    if (apart.length) box.x += apart.reduce((a, b) => a + b) / apart.length;
  }
  const first = moved[0],
    leads = first ? block.edges.filter(([one]) => one === first.item) : [];
  if (leads.length === 1)
    first.x +=
      ends(place.get(leads[0][1]), leads[0][1], first.item, true).x -
      ends(first, first.item, leads[0][1], false).x;
  return moved;
}
// Where an edge leaves or enters a box: at the port of an open block, else in the middle.
function ends(box, item, far, top) {
  const y = top ? box.y : box.y + box.height;
  if (!isBlock(item) || !item.open) return { x: box.x + box.width / 2, y };
  const inner = layoutOf(item),
    port = (top ? inner.ins : inner.outs).get(far);
  return { x: box.x + (box.width - inner.width) / 2 + (port ?? inner.width / 2), y };
}
function path(points, dx, dy) {
  const at = (x, y) => `${(x + dx).toFixed(1)} ${(y + dy).toFixed(1)}`;
  let d = `M${at(points[0].x, points[0].y)}`;
  for (let place = 1; place < points.length; place++) {
    const [a, b] = [points[place - 1], points[place]];
    const middle = (a.y + b.y) / 2;
    d += `C${at(a.x, middle)} ${at(b.x, middle)} ${at(b.x, b.y)}`;
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
