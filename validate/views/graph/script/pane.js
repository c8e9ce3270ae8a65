// A pane: one stage, drawn; only what can be seen is in the page.
let colour = "precision",
  panes = [],
  active = null,
  chosen = null;

class Pane {
  constructor(number, stage) {
    this.number = number;
    this.choice = html(
      "select",
      {
        "aria-label": `graph ${number + 1}`,
        onchange: () => {
          this.show(stages[+this.choice.value]);
          chosen && follow(this);
        },
      },
      ...stages.map((each) =>
        html(
          "option",
          { value: each.place },
          `${each.title} (${each.nodes.filter((node) => !node.plain.r).length} nodes)`,
        ),
      ),
    );
    this.told = html("p", { class: "g-told" });
    this.edges = svg("g");
    this.boxes = svg("g");
    this.view = svg("g", {}, this.edges, this.boxes);
    this.svg = svg(
      "svg",
      { tabindex: "0", role: "application", "aria-roledescription": "graph" },
      this.view,
    );
    this.element = html(
      "div",
      { class: "g-pane" },
      html(
        "div",
        { class: "g-head" },
        this.choice,
        button("−", () => this.zoom(1 / 1.3), "smaller"),
        button("+", () => this.zoom(1.3), "larger"),
        button("⤢", () => this.fit(true), "show all"),
        button("Open", () => this.openAll(true), "open all blocks"),
        button("Fold", () => this.openAll(false), "fold all blocks"),
      ),
      this.told,
      this.svg,
    );
    this.listen();
    this.stage = null;
    this.first = stage;
  }
  show(stage) {
    this.stage = stage;
    this.choice.value = stage.place;
    this.svg.setAttribute("aria-label", `${stage.title}: walk with the arrow keys`);
    if (!stage.begun) {
      stage.begun = true;
      openAtFirst(stage);
    }
    this.lit = new Set();
    this.tell("");
    this.arrange();
    this.fit();
    legend();
  }
  tell(text) {
    this.told.textContent = [text, ...this.stage.notes].filter(Boolean).join(" ");
  }
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
      const ys = points.map((point) => point.y + dy),
        xs = points.map((point) => point.x + dx);
      this.lines.push({
        key: {},
        one,
        other,
        d: path(points, dx, dy),
        x: Math.min(...xs),
        y: Math.min(...ys),
        width: Math.max(...xs) - Math.min(...xs),
        height: Math.max(...ys) - Math.min(...ys),
      });
    }
    for (const { item, x, y, width, height } of layout.boxes) {
      const box = { key: item, item, x: x + dx, y: y + dy, width, height };
      this.drawn.push(box);
      this.where.set(item, box);
      if (isBlock(item) && item.open)
        this.walk(item, box.x + (width - layoutOf(item).width) / 2, box.y + HEAD);
    }
  }
  // Puts what can be seen into the page, and takes out what can't.
  paint() {
    if (!this.stage) return;
    const { width, height } = this.svg.getBoundingClientRect(),
      margin = 200 / this.k;
    const [left, top] = [-this.x / this.k - margin, -this.y / this.k - margin];
    const [right, bottom] = [
      left + width / this.k + 2 * margin,
      top + height / this.k + 2 * margin,
    ];
    const seen = (box) =>
      box.x <= right && box.y <= bottom && box.x + box.width >= left && box.y + box.height >= top;
    const wanted = new Set();
    for (const [list, layer, make] of [
      [this.lines, this.edges, this.line],
      [this.drawn, this.boxes, this.box],
    ]) {
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
    for (const [key, element] of this.shown)
      if (!wanted.has(key)) {
        element.remove();
        this.shown.delete(key);
      }
    this.view.setAttribute(
      "transform",
      `translate(${this.x.toFixed(1)} ${this.y.toFixed(1)}) scale(${this.k.toFixed(4)})`,
    );
    this.svg.classList.toggle("g-far", this.k < SMALL);
    this.svg.classList.toggle("g-farther", this.k < TINY);
    this.svg.setAttribute(
      "aria-activedescendant",
      chosen && chosen.stage === this.stage ? this.idOf(this.visible(chosen)) : "",
    );
  }
  again() {
    cancelAnimationFrame(this.waiting);
    this.waiting = requestAnimationFrame(() => this.paint());
  }
  idOf(item) {
    return `g${this.number}${item.id}`;
  }
  line(line) {
    const near = chosen && (line.one === chosen || line.other === chosen);
    return svg("path", { class: near ? "g-edge g-near" : "g-edge", d: line.d });
  }
  box({ item, x, y, width, height }) {
    const marks = [item === chosen && "g-chosen", this.isLit(item) && "g-linked"]
      .filter(Boolean)
      .join(" ");
    const select = (event) => {
      event.stopPropagation();
      if (!this.dragged) choose(item, this);
    };
    const words = describe(item);
    const group = (kind, ...parts) =>
      svg(
        "g",
        {
          class: `${kind} ${marks}`,
          id: this.idOf(item),
          transform: `translate(${x} ${y})`,
          role: "img",
          "aria-label": words,
          onclick: select,
          ondblclick: () => this.toggle(item),
        },
        svg("title", {}, words),
        ...parts,
      );
    if (isBlock(item) && item.open) {
      return group(
        "g-open",
        svg("rect", { class: "g-frame", width, height, rx: 8 }),
        svg("rect", { class: "g-title", width, height: HEAD }),
        this.sign(item, 8, 18, "−"),
        svg("text", { x: SIGN + 6, y: 17 }, cut(item.name, 40)),
      );
    }
    const lines = linesOf(item),
      sign = isBlock(item) ? SIGN : 0,
      role = item.plain && item.plain.r;
    const kind = [
      isBlock(item)
        ? "g-closed"
        : role
          ? role === "input" || role === "output"
            ? "g-end"
            : "g-moved"
          : "",
      classOf(item, colour, this.scale_),
    ].join(" ");
    return group(
      `g-node ${kind}`,
      ...(isBlock(item)
        ? [svg("rect", { class: "g-sheet", x: 4, y: 4, width, height, rx: 7 })]
        : []),
      svg("rect", { width, height, rx: role ? 14 : 6 }),
      ...(isBlock(item) ? [this.sign(item, 8, height / 2 + 5, "+")] : []),
      ...lines.map((line, at) =>
        svg(
          "text",
          {
            x: sign + (width - sign) / 2,
            y: 18 + 15 * at,
            "text-anchor": "middle",
            class: at ? "g-small" : "g-op",
          },
          line,
        ),
      ),
    );
  }
  sign(block, x, y, text) {
    return svg(
      "text",
      {
        class: "g-sign",
        x,
        y,
        onclick: (event) => {
          event.stopPropagation();
          if (!this.dragged) this.toggle(block);
        },
      },
      text,
    );
  }
  isLit(item) {
    return isBlock(item) && item.open ? false : nodesOf(item).some((node) => this.lit.has(node));
  }
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
    if (before && after) {
      // What was looked at stays where it was.
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
    for (const pane of panes)
      if (pane.stage === this.stage) {
        pane.arrange();
        pane.fit();
      }
  }
  fit(whole) {
    const { width, height } = this.svg.getBoundingClientRect();
    const across = Math.min(1, (width - 24) / this.width);
    this.k = whole
      ? Math.min(1, across, (height - 24) / this.height)
      : Math.max(across, Math.min(0.8, (width - 24) / 420));
    this.x = (width - this.width * this.k) / 2;
    this.y = whole ? Math.max(12, (height - this.height * this.k) / 2) : 12;
    if (!whole && this.width * this.k > width) {
      const first =
        this.drawn.find((box) => box.item.plain && box.item.plain.r === "input") || this.drawn[0];
      if (first) this.x = width / 2 - (first.x + first.width / 2) * this.k;
    }
    this.paint();
  }
  zoom(factor, x, y) {
    const { width, height } = this.svg.getBoundingClientRect();
    const [cx, cy] = [x ?? width / 2, y ?? height / 2],
      k = Math.min(3, Math.max(0.01, this.k * factor));
    this.x = cx - ((cx - this.x) * k) / this.k;
    this.y = cy - ((cy - this.y) * k) / this.k;
    this.k = k;
    this.again();
  }
  move(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.again();
  }
  // Brings an item into the picture; what it is in is opened.
  reveal(item) {
    let opened = false;
    for (let block = item.inside; block; block = block.inside)
      if (!block.open) {
        setOpen(block, true);
        opened = true;
      }
    if (opened) for (const pane of panes) if (pane.stage === this.stage) pane.arrange();
    this.centre(item);
  }
  centre(item) {
    const box = this.where.get(this.visible(item)),
      { width, height } = this.svg.getBoundingClientRect();
    if (!box) return;
    if (this.k < 0.55) this.k = 0.8;
    this.x = width / 2 - (box.x + box.width / 2) * this.k;
    this.y = height / 2 - (box.y + Math.min(box.height, height / this.k) / 2) * this.k;
    this.paint();
  }
  inView(box) {
    const { width, height } = this.svg.getBoundingClientRect();
    return (
      box.x * this.k + this.x >= 0 &&
      box.y * this.k + this.y >= 0 &&
      (box.x + box.width) * this.k + this.x <= width &&
      (box.y + box.height) * this.k + this.y <= height
    );
  }
  redraw() {
    for (const [key, element] of this.shown) {
      element.remove();
      this.shown.delete(key);
    }
    this.scale_ = colour === "precision" ? null : scaleOf(this.stage, colour);
    this.paint();
  }
}
