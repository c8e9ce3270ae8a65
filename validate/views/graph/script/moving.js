// How one moves about in a pane: with a mouse, with fingers, with keys.
Object.assign(Pane.prototype, {
  listen() {
    const fingers = new Map();
    let apart = 0;
    this.svg.addEventListener("focus", () => {
      active = this;
    });
    this.svg.addEventListener("pointerdown", (event) => {
      active = this;
      this.dragged = false;
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      apart = 0;
    });
    this.svg.addEventListener("pointermove", (event) => {
      const before = fingers.get(event.pointerId);
      if (!before) return;
      if (!this.dragged && Math.hypot(event.clientX - before[0], event.clientY - before[1]) < 4)
        return;
      if (!this.dragged) {
        this.dragged = true;
        this.svg.setPointerCapture(event.pointerId);
      }
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      if (fingers.size === 2) {
        const [a, b] = [...fingers.values()],
          now = Math.hypot(a[0] - b[0], a[1] - b[1]),
          place = this.svg.getBoundingClientRect();
        if (apart) this.zoom(now / apart, (a[0] + b[0]) / 2 - place.x, (a[1] + b[1]) / 2 - place.y);
        apart = now;
      } else this.move(event.clientX - before[0], event.clientY - before[1]);
    });
    for (const end of ["pointerup", "pointercancel"])
      this.svg.addEventListener(end, (event) => {
        fingers.delete(event.pointerId);
        apart = 0;
      });
    this.svg.addEventListener(
      "wheel",
      (event) => {
        const place = this.svg.getBoundingClientRect();
        if (event.ctrlKey || event.metaKey)
          this.zoom(
            Math.exp(-event.deltaY / 300),
            event.clientX - place.x,
            event.clientY - place.y,
          );
        else if (document.activeElement === this.svg || root.closest("[data-alone]"))
          this.move(-event.deltaX, -event.deltaY);
        else return;
        event.preventDefault();
      },
      { passive: false },
    );
    this.svg.addEventListener("click", () => {
      if (!this.dragged && chosen) choose(null, this);
    });
    this.svg.addEventListener("keydown", (event) => this.key(event));
  },
  key(event) {
    const arrows = { ArrowDown: [0, 1], ArrowUp: [0, -1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] },
      arrow = arrows[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const item = chosen && chosen.stage === this.stage ? this.visible(chosen) : null;
    if (arrow && event.shiftKey) this.move(-80 * arrow[0], -80 * arrow[1]);
    else if (arrow) this.step(item, ...arrow);
    else if (event.key === "Enter" || event.key === " ") {
      if (item && isBlock(item)) this.toggle(item);
      else if (item) byId("g-details").focus();
    } else if (event.key === "Backspace") {
      if (item && item.inside.inside) {
        const block = item.inside;
        this.toggle(block);
        choose(block, this);
      }
    } else if (event.key === "+" || event.key === "=") this.zoom(1.3);
    else if (event.key === "-") this.zoom(1 / 1.3);
    else if (event.key === "0") this.fit(true);
    else if (event.key === "/") byId("g-search").focus();
    else if (event.key === "Escape") choose(null, this);
    else return;
    event.preventDefault();
  },
  step(item, dx, dy) {
    let next;
    if (!item)
      next =
        this.drawn.find((box) => box.item.plain && box.item.plain.r === "input") || this.drawn[0];
    else if (dy) {
      const inside = new Set(nodesOf(item));
      const near = nodesOf(item)
        .flatMap((node) => (dy > 0 ? node.behind : node.before))
        .filter((node) => !inside.has(node));
      next = near.length ? this.where.get(this.visible(near[0])) : null;
    } else {
      const here = this.where.get(item),
        middle = (box) => [box.x + box.width / 2, box.y + box.height / 2],
        [x, y] = middle(here);
      const beside = this.drawn.filter(
        (box) =>
          box.item !== item &&
          (middle(box)[0] - x) * dx > 8 &&
          Math.abs(middle(box)[1] - y) < 90 &&
          !(isBlock(box.item) && box.item.open),
      );
      const far = (box) => Math.abs(middle(box)[0] - x) + 3 * Math.abs(middle(box)[1] - y);
      next = beside.sort((a, b) => far(a) - far(b))[0];
    }
    if (!next) return say("nothing there");
    choose(next.item, this);
    if (!this.inView(next)) this.centre(next.item);
  },
});
