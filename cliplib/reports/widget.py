"""A box for JupyterLab that takes one image."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import anywidget

from cliplib.reports.decision_aid import DecisionAid
from cliplib.reports.sheet import answers_table


def drop_box(aid: DecisionAid, images: str = "") -> anywidget.AnyWidget:
    """Return a box that takes one image at a time and shows what an aid says of it.

    `images` is the folder of the training images, of which the nearest one is shown.
    """

    class DropBox(anywidget.AnyWidget):
        _esm = Path(__file__).with_name("drop_box.js")  # which anywidget loads

    box = DropBox()

    def respond(_: Any, request: Mapping[str, Any], buffers: list[memoryview]) -> None:
        """Answer drop_box.js, which sends a file's name and, in a buffer, its bytes.

        It also sends a number, by which it knows the answer to this request.
        """
        image = {"path": request["name"], "bytes": bytes(buffers[0])}
        try:
            rows = aid.classify([image])
            answer = answers_table(rows, aid, [image], heat_maps=True, images=images)
        except Exception as error:  # else the box would wait for ever
            answer = escape(f"{type(error).__name__}: {error}")
        box.send({"number": request["number"], "html": answer})

    box.on_msg(respond)
    return box
