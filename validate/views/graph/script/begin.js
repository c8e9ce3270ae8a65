// The bar above, and the beginning.
function legend() {
  const place = byId("g-legend"),
    kinds = panes.map((pane) => pane.stage).filter(Boolean);
  const mark = (name, words) => html("span", {}, html("i", { class: name }), words);
  if (colour === "precision") {
    const found = new Set(
      kinds.flatMap((stage) => stage.nodes.map((node) => node.plain.p).filter(Boolean)),
    );
    return place.replaceChildren(
      ...["fp32", "tf32", "fp16", "bf16", "fp8", "int8", "int4"]
        .filter((name) => found.has(name))
        .map((name) => mark(`p-${name}`, name)),
      ...(found.size > 1 ? [mark("p-mixed", "several")] : []),
    );
  }
  const scales = kinds.map((stage) => scaleOf(stage, colour)),
    { words } = MEASURES[colour];
  place.replaceChildren(
    ...scales.flatMap((scale, at) =>
      scales.length > 1 && at && kinds[at] === kinds[0]
        ? []
        : scale
          ? [
              html(
                "span",
                {},
                `${kinds[at].title}: ${words(Math.max(scale[0], scale[1] / 1e4))}`,
                ...[0, 1, 2, 3, 4, 5].map((step) => html("i", { class: `h${step}` })),
                words(scale[1]),
              ),
            ]
          : [html("span", {}, `${kinds[at].title}: not measured`)],
    ),
  );
}
function titled(node) {
  const origin = node.plain.f && node.plain.f !== node.name ? ` (${node.plain.f})` : "";
  return `${node.plain.o} ${node.name}${origin}`;
}
function search() {
  const list = byId("g-found"),
    text = byId("g-search").value.trim().toLowerCase();
  list.hidden = !text;
  if (!text) return list.replaceChildren();
  const order = [active, ...panes.filter((pane) => pane !== active)],
    found = [];
  for (const pane of order)
    for (const node of pane.stage.nodes) {
      if (`${node.name}\n${node.plain.o}\n${node.plain.f || ""}`.toLowerCase().includes(text))
        found.push([node, pane]);
    }
  list.replaceChildren(
    ...found.slice(0, 60).map(([node, pane]) =>
      html(
        "li",
        {},
        button(`${titled(node)}, in ${pane.stage.title}`, () => {
          pane.reveal(node);
          choose(node, pane);
          pane.svg.focus({ preventScroll: true });
        }),
      ),
    ),
    ...(found.length > 60
      ? [html("li", { class: "g-soft" }, `and ${found.length - 60} more`)]
      : found.length
        ? []
        : [html("li", { class: "g-soft" }, "nothing found")]),
  );
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
  details(chosen);
}
const stages = data.stages.map((plain, place) => new Stage(plain, place));

function begin() {
  byId("g-two").hidden = stages.length < 2;
  arrangePanes(stages.length > 1 && byId("g-panes").clientWidth >= WIDE);
  byId("g-two").addEventListener("click", () => arrangePanes(panes.length === 1));
  byId("g-colour").addEventListener("change", (event) => {
    colour = event.target.value;
    for (const pane of panes) pane.redraw();
    legend();
  });
  byId("g-search").addEventListener("input", search);
  byId("g-search").addEventListener("keydown", (event) => {
    const first = byId("g-found").querySelector("button");
    if (event.key === "Enter" && first) first.click();
    if (event.key === "Escape") {
      event.target.value = "";
      search();
      active.svg.focus({ preventScroll: true });
    }
    if (event.key === "ArrowDown" && first) {
      first.focus();
      event.preventDefault();
    }
  });
  byId("g-found").addEventListener("keydown", (event) => {
    const beside = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[
        event.key
      ],
      line = event.target.closest("li");
    const next = beside && line && line[beside];
    if (next && next.firstElementChild) {
      next.firstElementChild.focus();
      event.preventDefault();
    }
    if (event.key === "Escape") byId("g-search").focus();
  });
  new ResizeObserver(() => {
    for (const pane of panes) pane.again();
  }).observe(byId("g-panes"));
  performance.mark("graph-drawn");
}
// In a part of a report that is folded there is no room to draw yet.
const folded = root.closest("details");
if (folded && !folded.open) folded.addEventListener("toggle", begin, { once: true });
else begin();
