// What everything here is made with. The files of this folder are one script, in the order that
// page.py names; all text comes in as text, never as markup.
const byId = (id) => document.getElementById(id);
const root = byId("graph"),
  data = JSON.parse(byId("graph-data").textContent);
const AT_FIRST = 130; // Boxes that are open at first.
const WIDE = 760; // From this width on, two stages stand side by side.
const SMALL = 0.5,
  TINY = 0.28; // Below these scales names, and all texts, are left out.
const LEVELS = "0123456789abcdefghijklmnopqrstuvwxyz";
const weights = data.weights || [],
  ranges = data.ranges || {};

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
const button = (text, onclick, label) =>
  html("button", { type: "button", onclick, "aria-label": label, title: label }, text);
const cut = (text, most) =>
  text.length <= most ? text : `${text.slice(0, most / 2 - 1)}…${text.slice(-most / 2)}`;
const lastOf = (name) => name.replace(/\/+$/, "").split("/").pop();
const number = (value) =>
  Math.abs(value) >= 1e5 || (value && Math.abs(value) < 1e-3)
    ? value.toExponential(2)
    : String(+value.toPrecision(4));
function counted(value) {
  const [size, unit] = [
    [1e9, " G"],
    [1e6, " M"],
    [1e3, " k"],
  ].find(([size]) => value >= size) || [1, ""];
  return +(value / size).toPrecision(3) + unit;
}
