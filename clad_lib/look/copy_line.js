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
