// What was chosen, and what became of it on the other side.
function describe(item) {
  if (isBlock(item))
    return `block ${item.name}, ${item.nodes.length} nodes, ${item.open ? "open" : "folded"}`;
  const { plain } = item;
  return [
    `${plain.o} ${item.name}`,
    plain.f && plain.f !== item.name ? `originally ${plain.f}` : "",
    plain.p,
    shapeOf(item),
  ]
    .filter(Boolean)
    .join(", ");
}
function say(text) {
  byId("g-live").textContent = text;
}

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
  if (!chosen || chosen.stage === pane.stage) {
    pane.tell("");
    if (pane.shown) pane.redraw();
    return;
  }
  const found = became(chosen, pane.stage);
  pane.lit = new Set(found);
  const noted = nodesOf(chosen).flatMap((node) => node.plain.s || []);
  const [name, here] = [lastOf(chosen.name), own(found)];
  if (here.length)
    pane.tell(`${name}: ${here[1] ? `${here.length} nodes` : cut(here[0].name, 60)} here.`);
  else pane.tell(`${name} is not in this graph${noted.length ? `: ${noted[0]}` : ""}.`);
  if (found.length && found.length <= 12 && !isBlock(chosen)) pane.reveal(here[0]);
  else if (found.length) pane.centre(here[0]);
}
const linksOf = new Map(); // of a stage: others, with what each node became in it
for (const [before, after, pairs] of data.links || []) {
  for (const [one, other, turned] of [
    [before, after, false],
    [after, before, true],
  ]) {
    const map = new Map();
    for (const pair of pairs) add(map, pair[turned ? 1 : 0], pair[turned ? 0 : 1]);
    linksOf.set(one, [...(linksOf.get(one) || []), [other, map]]);
  }
}
function became(item, stage) {
  const waiting = [[item.stage.place, new Set(nodesOf(item).map((node) => node.at))]],
    seen = new Set([item.stage.place]);
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
