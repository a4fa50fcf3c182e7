"""A box for JupyterLab to drop one picture on: it tells what a classifier says of it, and shows where it looked."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import ipywidgets

from cliplib.classifier import Classifier
from cliplib.classifier.sheet import illustrations, rendered, shown
from cliplib.errors import CliplibError

__all__ = ["drop_box"]

# FileUpload opens a dialog but takes no drops: its file input is no part of the page, and only its button can reach it.
# So a drop presses the button while a press of any file input means: take these files. Should a later ipywidgets work
# otherwise, the button still does what it says. Nothing is loaded; the script is part of the element.
_ZONE = """<div style="padding: 1.5em; text-align: center; border: 2px dashed #8a8f98"
  ondragover="event.preventDefault()" ondrop="event.preventDefault();
    const inputs = HTMLInputElement.prototype, press = inputs.click, files = event.dataTransfer.files;
    inputs.click = function () { this.files = files; this.dispatchEvent(new Event('change')); };
    try { this.closest('.jupyter-widgets.widget-vbox').querySelector('.widget-upload').click(); }
    finally { inputs.click = press; }">Drop a picture here, or choose one below.</div>"""


def drop_box(classifier: Classifier) -> ipywidgets.VBox:
    """A box to drop one picture on: class and calibrated probability or refusal, heat map, nearest training pictures.

    Returns
    -------
    ipywidgets.VBox
        Its children: where to drop (``HTML``), the button (``FileUpload``) and the answer (``HTML``).
    """
    zone, answer = ipywidgets.HTML(_ZONE), ipywidgets.HTML()
    button = ipywidgets.FileUpload(accept="image/*", description="Choose a picture", layout={"width": "auto"})

    def respond(change: Mapping[str, Any]) -> None:
        answer.value = "<p>Looking at it …</p>"
        try:
            if len(change["new"]) != 1:
                raise CliplibError(f"{len(change['new'])} files came: drop one picture.")
            files = [{"path": str(file["name"]), "bytes": bytes(file["content"])} for file in change["new"]]
            rows = classifier.classify(files, progress=False)
            pictures = next(illustrations(rows, files, classifier))
            answer.value = rendered("card", shown(rows).to_dict("records")[0], pictures)
        except CliplibError as error:
            answer.value = f'<p role="status">{escape(str(error))}</p>'

    button.observe(respond, names="value")
    return ipywidgets.VBox([zone, button, answer])
