"""Widgets that ipywidgets and plotly lack: a slider that says what it stands at, a line to copy, a
figure that follows its container. All figures of a page share one copy of plotly's script.
"""

from __future__ import annotations

import gzip
from functools import cache
from typing import Any

import anywidget
import ipywidgets as ipw
import traitlets
from plotly.offline import get_plotlyjs

SLIDER = """
export default { render({ model, el }) {
  const label = document.createElement("label"), range = document.createElement("input");
  const shown = document.createElement("output"), name = document.createElement("span");
  range.type = "range";
  range.dataset.lmSuppressShortcuts = "";  // JupyterLab's, which would take the arrow keys away
  label.append(name, range, shown);
  label.className = "clad-range";
  el.append(label);
  const show = () => {
    name.textContent = model.get("label");
    shown.textContent = model.get("text");
    range.max = model.get("max");
    range.step = model.get("step");
    range.value = model.get("value");
    range.setAttribute("aria-valuetext", model.get("text"));
  };
  range.addEventListener("input", () => {  // only a hand causes it, never a value set by code
    model.set("value", Number(range.value));
    model.save_changes();
  });
  model.on("change", show);
  show();
} };
"""
COPY = """
export default { render({ model, el }) {
  const label = document.createElement("label"), field = document.createElement("input");
  const button = document.createElement("button"), told = document.createElement("span");
  const name = document.createElement("span");
  field.readOnly = true;
  field.spellcheck = false;
  button.textContent = "Copy";
  button.className = "jupyter-button";
  told.setAttribute("role", "status");
  label.append(name, field);
  label.className = "clad-range";
  label.style.flex = "1";
  el.className += " clad-range";
  el.append(label, button, told);
  const show = () => {
    name.textContent = model.get("label");
    button.setAttribute("aria-label", `Copy: ${model.get("label")}`);
    field.value = model.get("value");
    button.disabled = !field.value;
    told.textContent = "";
  };
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(field.value);
      told.textContent = "copied";
    } catch {  // a page that may not write to the clipboard
      field.select();
      told.textContent = "selected: press Ctrl+C";
    }
  });
  model.on("change", show);
  show();
} };
"""
FIGURE = """
async function load(model) {
  const id = model.get("script").replace("IPY_MODEL_", "");
  const packed = (await model.widget_manager.get_model(id)).get("source");
  const plain = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const module = { exports: {} };
  new Function("module", "exports", await new Response(plain).text())(module, module.exports);
  return module.exports;
}
function pointsOf(box) {  // all that are drawn, with their places in pixels and their rows
  const { xaxis, yaxis } = box._fullLayout;
  return box._fullData.filter((trace) => trace.visible === true && trace.customdata)
    .flatMap((trace) => Array.from(trace.x, (x, i) => ({ row: trace.customdata[i][0],
      x: xaxis.l2p(x) + xaxis._offset, y: yaxis.l2p(trace.y[i]) + yaxis._offset })));
}
function nextPoint(points, from, [dx, dy]) {
  let best = from, least = Infinity;
  for (const point of points) {
    const x = point.x - from.x, y = point.y - from.y;
    const ahead = x * dx + y * dy, cost = ahead + 3 * Math.abs(x * dy - y * dx);
    if (ahead > 0 && cost < least) [best, least] = [point, cost];
  }
  return best;
}
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
function act({ model, el, box, tip }) {
  let at = null;
  const tell = (what, rows) => model.send({ what, rows });
  const show = (row, x, y) => {
    tip.style.left = `${Math.max(0, Math.min(x + 16, el.clientWidth - 200))}px`;
    tip.style.top = `${y + 16}px`;
    tell("show", [row]);
  };
  const rowOf = (point) => point.customdata[0];
  box.on("plotly_hover", ({ points: [point], event }) => {
    const edge = el.getBoundingClientRect();
    if (point.customdata) show(rowOf(point), event.clientX - edge.left, event.clientY - edge.top);
  });
  box.on("plotly_unhover", () => { tip.hidden = true; });
  box.on("plotly_click", ({ points: [point] }) => point.customdata && tell("open", [rowOf(point)]));
  box.on("plotly_selected", (event) => event && !box.cladDraws &&  // a redraw selects nothing
    tell("select", event.points.filter((point) => point.customdata).map(rowOf)));
  model.on("change:tip", () => { tip.innerHTML = model.get("tip"); tip.hidden = false; });
  box.addEventListener("focus", () => { tip.hidden = !at; });
  box.addEventListener("blur", () => { tip.hidden = true; });
  box.addEventListener("keydown", (event) => {
    if (!STEPS[event.key] && event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    const points = pointsOf(box), far = (p) => (p.x - at.x) ** 2 + (p.y - at.y) ** 2;
    at = points.find((point) => point.row === at?.row) ?? points[0];
    if (event.key === "Enter") tell("open", [at.row]);
    else if (event.key === " ")
      tell("select", points.sort((p, q) => far(p) - far(q)).slice(0, 24).map((p) => p.row));
    else at = nextPoint(points, at, STEPS[event.key]);
    show(at.row, at.x, at.y);
  });
}
async function render({ model, el }) {
  const box = document.createElement("div"), tip = document.createElement("div");
  const acts = model.get("acts");
  tip.className = "clad-tip";
  tip.hidden = true;
  el.style.cssText += "position: relative; width: 100%";
  el.append(box, tip);
  box.dataset.lmSuppressShortcuts = "";
  box.setAttribute("role", acts ? "application" : "img");
  if (acts) box.tabIndex = 0;
  const Plotly = await (globalThis.cladPlotly ??= load(model));
  let traces, wide = 0;
  const take = () => { traces = structuredClone(model.get("traces")); };
  const paint = async () => {
    if (!el.clientWidth) return;  // in a tab that is not shown
    wide = el.clientWidth;
    const frame = { ...structuredClone(model.get("frame")), width: wide };
    if (wide < 640)
      for (const [key, values] of Object.entries(model.get("narrow")))
        frame[key] = typeof values === "object" ? { ...frame[key], ...values } : values;
    box.setAttribute("aria-label", model.get("alt"));
    box.cladDraws = true;
    await Plotly.react(box, traces, frame, { displaylogo: false, displayModeBar: acts });
    box.cladDraws = false;
    if (acts && !box.cladActs) act({ model, el, box, tip });
    box.cladActs = true;
  };
  let last = Promise.resolve();  // one after the other, so that the last one is what stays
  const draw = () => { last = last.then(paint, paint); };
  take();
  model.on("change:traces", take);
  model.on("change:traces change:frame change:alt", draw);
  const watch = new ResizeObserver(() => wide !== el.clientWidth && requestAnimationFrame(draw));
  watch.observe(el);
  return () => { watch.disconnect(); Plotly.purge(box); };
}
export default { render };
"""


class Slider(anywidget.AnyWidget):
    """A slider from 0 to `max` that shows, and reads out, `text` in place of its position.

    `value` changes from the page only by a hand on it.
    """

    _esm = SLIDER
    value, max, step = (traitlets.Float(each).tag(sync=True) for each in (0.0, 100.0, 1.0))
    label, text = (traitlets.Unicode().tag(sync=True) for _ in range(2))


class CopyLine(anywidget.AnyWidget):
    """A line of text with a button that copies it."""

    _esm = COPY
    value, label = (traitlets.Unicode().tag(sync=True) for _ in range(2))


class Script(ipw.Widget):
    """plotly's script, packed: sent to a page once for all its figures."""

    source = traitlets.Bytes().tag(sync=True)


@cache
def _script() -> Script:
    return Script(source=gzip.compress(get_plotlyjs().encode("utf-8"), 1))


def plotly_script() -> Script:
    """The one Script of this process, made anew where it was closed with all other widgets."""
    if _script().comm is None:
        _script.cache_clear()
    return _script()


class Figure(anywidget.AnyWidget):
    """A figure of plotly, given as plain traces and layout, as wide as its container.

    What is drawn is always the present state. `narrow` is what the layout takes below 640 px.
    A figure that `acts` sends messages {what, rows}, a row being the first entry of a point's
    customdata: "show" for the point under the pointer, beside which `tip` is then shown, "open"
    for a click, "select" for a lasso or a box. By keyboard the arrows go from point to point,
    Enter opens one, and the space bar selects the 24 nearest. Screen readers say `alt`.
    """

    _esm = FIGURE
    script = traitlets.Instance(Script).tag(sync=True, **ipw.widget_serialization)
    traces: Any = traitlets.List().tag(sync=True)
    frame, narrow = (traitlets.Dict().tag(sync=True) for _ in range(2))
    alt, tip = (traitlets.Unicode().tag(sync=True) for _ in range(2))
    acts = traitlets.Bool(False).tag(sync=True)
