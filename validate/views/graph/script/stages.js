// The stages of a model: nodes in blocks, with the edges of each block.
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
    const item = {
      id: `b${at}`,
      stage: this,
      name,
      inside,
      items: [],
      open: false,
      nodes: [],
      edges: [],
      ins: new Map(),
      outs: new Map(),
      layout: null,
    };
    if (inside) inside.items.push(item);
    return item;
  }
  node(plain, at) {
    const inside = plain.b < 0 ? this.whole : this.blocks[plain.b];
    const item = {
      id: `n${at}`,
      at,
      stage: this,
      name: plain.n,
      plain,
      inside,
      before: [],
      behind: [],
    };
    inside.items.push(item);
    for (let block = inside; block; block = block.inside) block.nodes.push(item);
    return item;
  }
  link() {
    const makers = new Map();
    for (const node of this.nodes)
      for (const tensor of node.plain.u || []) if (!makers.has(tensor)) makers.set(tensor, node);
    for (const node of this.nodes)
      for (const tensor of node.plain.i || []) {
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
    const [up, down] = [climb(from), climb(to)],
      [one, other] = [up.at(-1), down.at(-1)];
    common.edges.push([one, other]);
    up.slice(1).forEach((block, at) => add(block.outs, other, up[at]));
    down.slice(1).forEach((block, at) => add(block.ins, one, down[at]));
  }
}
function add(map, key, value) {
  if (!map.has(key)) map.set(key, new Set());
  map.get(key).add(value);
}
const nodesOf = (item) => (item.items ? item.nodes : [item]);
const isBlock = (item) => Boolean(item.items);
const shapeOf = (node) => {
  const made = (node.plain.u || node.plain.i || [])[0];
  return made === undefined ? "" : node.stage.tensors[made][1] || "";
};

// How an item is coloured: by what it, or what is in it, is measured as.
const MEASURES = {
  error: {
    of: (node) => (node.plain.e ? node.plain.e[0] : null),
    sum: Math.max,
    words: (v) => `${number(100 * v)} % of the range`,
  },
  time: {
    of: (node) => node.plain.t ?? null,
    sum: (a, b) => a + b,
    words: (v) => `${number(v)} ms`,
  },
  macs: {
    of: (node) => node.plain.m || null,
    sum: (a, b) => a + b,
    words: (v) => `${counted(v)} MACs`,
  },
};
function measured(item, kind) {
  const values = nodesOf(item)
    .map(MEASURES[kind].of)
    .filter((value) => value !== null);
  return values.length ? values.reduce(MEASURES[kind].sum) : null;
}
function precisionOf(item) {
  const found = new Set(
    nodesOf(item)
      .map((node) => node.plain.p)
      .filter(Boolean),
  );
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
