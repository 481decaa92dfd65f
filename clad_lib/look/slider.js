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
