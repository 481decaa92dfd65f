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
    if (wide < 760)
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
