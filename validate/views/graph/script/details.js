// The details of what was chosen.
function table(rows) {
  return html(
    "table",
    {},
    html(
      "tbody",
      {},
      ...rows
        .filter(([, value]) => value !== null && value !== undefined && value !== "")
        .map(([name, value]) => html("tr", {}, html("td", {}, name), html("td", {}, value))),
    ),
  );
}
function histogram(levels, low, high, marks = []) {
  const wide = 10,
    place = (value) =>
      Math.max(0, Math.min(1, (value - low) / (high - low || 1))) * wide * levels.length;
  return svg(
    "svg",
    {
      viewBox: `0 0 ${wide * levels.length} 46`,
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": `histogram from ${number(low)} to ${number(high)}`,
    },
    ...[...levels].map((level, at) => {
      const tall = (LEVELS.indexOf(level) / 35) * 44;
      return svg("rect", { x: at * wide, y: 46 - tall, width: wide - 1.5, height: tall });
    }),
    ...marks.map((mark) => svg("line", { x1: place(mark), x2: place(mark), y1: 0, y2: 46 })),
  );
}
function goTo(node, pane) {
  return button(
    `${node.plain.o} ${cut(node.name, 60)}`,
    () => {
      pane.reveal(node);
      choose(node, pane);
      pane.svg.focus({ preventScroll: true });
    },
    `go to ${node.name}`,
  );
}
function goToStage(node) {
  const here =
    panes.find((pane) => pane.stage === node.stage) ||
    panes.find((pane) => pane !== active) ||
    active;
  return button(
    `${node.plain.o} ${cut(node.name, 60)}`,
    () => {
      if (here.stage !== node.stage) here.show(node.stage);
      here.reveal(node);
      choose(node, here);
    },
    `go to ${node.name} in ${node.stage.title}`,
  );
}
// Nodes without the quantizers that are there for them.
const own = (nodes) => {
  const found = nodes.filter((node) => !/uantizeLinear$/.test(node.plain.o));
  return found.length ? found : nodes;
};
function tensorRows(node, places) {
  return (places || []).flatMap((place) => {
    const [name, shape, type, origin] = node.stage.tensors[place];
    const range = ranges[name];
    return [
      table([
        ["name", html("code", {}, name)],
        ["original", origin && origin !== name ? html("code", {}, origin) : ""],
        ["shape", shape],
        ["type", type],
        ...(range
          ? [
              ["seen", `${number(range.r[0])} to ${number(range.r[1])}`],
              ...range.k.map(([target, low, high, why]) => [
                target ? `kept, ${target}` : "kept",
                `${number(low)} to ${number(high)}${why ? `: ${why}` : ""}`,
              ]),
            ]
          : []),
      ]),
      ...(range && range.c
        ? [
            histogram(
              range.c,
              ...range.r,
              range.k.flatMap(([, low, high]) => [low, high]),
            ),
          ]
        : []),
    ];
  });
}
function section(title, ...content) {
  return content.length ? [html("h4", {}, title), ...content] : [];
}
function overview() {
  const words = "Choose a node to see what it is, and what became of it.";
  return [
    html("p", { class: "g-soft" }, words),
    ...stages.flatMap((stage) => {
      const layers = stage.nodes.filter((node) => !node.plain.r),
        counts = new Map();
      for (const { plain } of layers)
        if (plain.p) counts.set(plain.p, (counts.get(plain.p) || 0) + 1);
      const ends = (role) =>
        stage.nodes
          .filter((node) => node.plain.r === role)
          .map((node) => `${node.name} ${shapeOf(node)}`)
          .join(", ");
      const total = (kind) => {
        const value = measured(stage.whole, kind);
        return value === null ? "" : MEASURES[kind].words(value);
      };
      return section(
        stage.title,
        table([
          ["nodes", layers.length],
          ["constants", stage.folded || ""],
          ["precision", [...counts].map(([name, count]) => `${count} ${name}`).join(", ")],
          ["MACs", total("macs")],
          ["time", total("time")],
          ["inputs", ends("input")],
          ["outputs", ends("output")],
        ]),
      );
    }),
  ];
}
function details(item) {
  const panel = byId("g-details");
  panel.scrollTop = 0;
  if (!item) return panel.replaceChildren(...overview());
  const pane = active,
    { stage } = item;
  const others = stages
    .filter((other) => other !== stage)
    .map((other) => [other, became(item, other)]);
  const links = section(
    "In the other graphs",
    ...others.map(([other, found]) =>
      html(
        "p",
        {},
        `${other.title}: `,
        ...(found.length
          ? own(found).slice(0, 6).map(goToStage)
          : [html("span", { class: "g-soft" }, "nothing")]),
        found.length > Math.min(6, own(found).length)
          ? ` and ${found.length - Math.min(6, own(found).length)} more`
          : "",
      ),
    ),
  );
  if (isBlock(item)) {
    const counts = new Map();
    for (const node of item.nodes) counts.set(node.plain.o, (counts.get(node.plain.o) || 0) + 1);
    return panel.replaceChildren(
      html("h3", {}, item.name),
      html(
        "p",
        {},
        button(item.open ? "Fold" : "Open", () => {
          pane.toggle(item);
          details(item);
        }),
      ),
      table([
        ["nodes", item.nodes.length],
        [
          "operators",
          [...counts]
            .sort((a, b) => b[1] - a[1])
            .map(([op, count]) => `${count} ${op}`)
            .join(", "),
        ],
        ["precision", precisionOf(item)],
        ...Object.entries(MEASURES).map(([kind, { words }]) => {
          const value = measured(item, kind);
          return [kind === "error" ? "largest error" : kind, value === null ? "" : words(value)];
        }),
      ]),
      ...links,
    );
  }
  const { plain } = item,
    error = plain.e || [];
  panel.replaceChildren(
    html("h3", {}, `${plain.o} ${item.name}`),
    table([
      ["original", plain.f ? html("code", {}, plain.f) : ""],
      ["is in", pathOf(item)],
      [
        "precision",
        plain.g && plain.g !== plain.p ? `${plain.p} (the graph: ${plain.g})` : plain.p,
      ],
      ["MACs", plain.m ? counted(plain.m) : ""],
      ["time", plain.t === undefined ? "" : `${number(plain.t)} ms`],
      [
        "own error",
        error[0] === undefined || error[0] === null
          ? ""
          : `${number(100 * error[0])} % of the range`,
      ],
      ["own SQNR", error[1] === undefined || error[1] === null ? "" : `${number(error[1])} dB`],
      ["arrives", error[2] === undefined || error[2] === null ? "" : `${number(error[2])} dB`],
    ]),
    ...(plain.s
      ? section(
          "What was done, and why",
          html("ul", {}, ...plain.s.map((note) => html("li", {}, note))),
        )
      : []),
    ...links,
    ...(plain.a ? section("Attributes", table(Object.entries(plain.a))) : []),
    ...section("Makes", ...tensorRows(item, plain.u)),
    ...section("Reads", ...tensorRows(item, plain.i)),
    ...section(
      "Weights and constants",
      ...(plain.w || []).flatMap((place) => {
        const weight = weights[place];
        return [
          table([
            ["name", html("code", {}, weight.n)],
            ["shape", weight.s],
            ["type", weight.d],
            ["value", weight.v],
            ["range", weight.r ? `${number(weight.r[0])} to ${number(weight.r[1])}` : ""],
          ]),
          ...(weight.c ? [histogram(weight.c, ...weight.r)] : []),
        ];
      }),
    ),
    ...section("Before it", ...item.before.map((node) => goTo(node, pane))),
    ...section("Behind it", ...item.behind.slice(0, 12).map((node) => goTo(node, pane))),
  );
}
function pathOf(item) {
  const names = [];
  for (let block = item.inside; block && block.inside; block = block.inside)
    names.unshift(block.name);
  return names.join(" / ");
}
