"""A button that copies a text to the clipboard, which the kernel cannot do by itself."""

from __future__ import annotations

import anywidget
import traitlets

from .parts import Whole

_ESM = """
function render({ model, el }) {
  const button = document.createElement("button");
  button.className = "jupyter-button lm-Widget";
  button.type = "button";
  button.textContent = model.get("label");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(model.get("text"));
      button.textContent = "copied";
    } catch {
      button.textContent = "this browser does not allow it";
    }
    setTimeout(() => (button.textContent = model.get("label")), 1500);
  });
  el.appendChild(button);
}
export default { render };
"""


class CopyButton(Whole, anywidget.AnyWidget):
    """Copy `text` to the clipboard on a click."""

    _esm = _ESM
    label = traitlets.Unicode("copy").tag(sync=True)
    text = traitlets.Unicode("").tag(sync=True)
