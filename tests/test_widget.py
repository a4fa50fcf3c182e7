"""The drop box: what it answers, and how it does in JupyterLab, in a real browser."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from bs4 import BeautifulSoup
from PIL import Image
from test_decision_aid import PROBE, clouds

from cliplib.encoders.clip import ClipEncoder
from cliplib.reports.decision_aid import DecisionAid
from cliplib.reports.widget import drop_box

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run "
    "--disable-background-networking --remote-debugging-port=0 about:blank"
)
LAB = (
    "--no-browser --allow-root --LabApp.expose_app_in_browser=True "
    "--IdentityProvider.token="
)
KERNEL = (
    "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status"
)
BOX = "document.querySelector('.jp-OutputArea"
CELL = """\
from cliplib.reports.decision_aid import DecisionAid
from cliplib.reports.widget import drop_box
drop_box(DecisionAid.load("aid"))
"""


def wait_for(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 90
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.1)


class Tab:
    """A tab of a headless Chromium, spoken to by the DevTools protocol."""

    def __init__(self, address: str) -> None:
        websocket = pytest.importorskip("websocket")
        self.socket = websocket.create_connection(
            address, timeout=60, suppress_origin=True
        )
        self.calls, self.session = 0, dict[str, str]()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = {"sessionId": attached["sessionId"]}

    def call(self, method: str, **params: object) -> dict[str, Any]:
        self.calls += 1
        message = {"id": self.calls, "method": method, "params": params} | self.session
        self.socket.send(json.dumps(message))
        while (answer := json.loads(self.socket.recv())).get("id") != self.calls:
            pass  # an event
        return dict(answer["result"])

    def value(self, script: str) -> object:
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        return found["result"].get("value")

    def choose(self, file: Path) -> None:
        """Give a file to the box's input."""
        element = self.call("Runtime.evaluate", expression=f"{BOX} input[type=file]')")
        object_id = element["result"]["objectId"]
        self.call("DOM.setFileInputFiles", files=[str(file)], objectId=object_id)

    def status(self) -> str:
        return str(self.value(f"{BOX} [role=status]')?.textContent"))


@pytest.fixture(scope="module")
def tab(tiny: ClipEncoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """Open JupyterLab with a notebook that holds a drop box."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium (apt install chromium)")
    pytest.importorskip("websocket")
    folder = tmp_path_factory.mktemp("lab")
    DecisionAid.fit(clouds(tiny), tiny, probe=PROBE).save(folder / "aid")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, folder / "box.ipynb")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    lab = [sys.executable, "-m", "jupyterlab", *LAB.split(), f"--port={port}"]
    browser = [str(CHROMIUM), *FLAGS.split(), f"--user-data-dir={folder / 'profile'}"]
    options: dict[str, Any] = {"cwd": folder, "stdout": subprocess.DEVNULL}
    options["env"] = os.environ | {"JUPYTER_CONFIG_DIR": str(folder / "profile")}
    started = [
        subprocess.Popen(c, stderr=subprocess.DEVNULL, **options)
        for c in (lab, browser)
    ]
    try:
        told = folder / "profile" / "DevToolsActivePort"
        wait_for(lambda: told.exists() and told.read_text().count("\n"), "Chromium")
        tab = Tab("ws://127.0.0.1:{}{}".format(*told.read_text().split()))
        wait_for(
            lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, "JupyterLab"
        )
        tab.call("Page.navigate", url=f"http://127.0.0.1:{port}/lab/tree/box.ipynb")
        wait_for(lambda: tab.value(KERNEL) == "idle", "the kernel")
        tab.value("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        wait_for(lambda: tab.status() == "", "the box")
        yield tab
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(30)


def test_the_box_answers_images_and_says_what_it_cannot_read(
    tiny: ClipEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    box, sent = drop_box(DecisionAid.fit(clouds(tiny), tiny, probe=PROBE)), []
    monkeypatch.setattr(box, "send", sent.append)
    image = io.BytesIO()
    Image.new("RGB", (600, 40), (80, 90, 100)).save(image, "PNG")
    content = memoryview(image.getvalue())
    box._handle_custom_msg({"number": 1, "name": "<i>my.png"}, [content])
    box._handle_custom_msg({"number": 2, "name": "a.txt"}, [memoryview(b"no image")])
    monkeypatch.setattr(DecisionAid, "classify", lambda *_: 1 / 0)
    box._handle_custom_msg({"number": 3, "name": "a.png"}, [content])
    answer = BeautifulSoup(sent[0]["html"], "html.parser")
    assert "<i>my.png" in answer.text and len(answer("img")) == 2 and not answer("i")
    assert answer("img", alt="heat map")
    assert "Cannot read the image" in sent[1]["html"] and "<img" not in sent[1]["html"]
    assert [s["number"] for s in sent] == [1, 2, 3]
    assert sent[2]["html"] == "ZeroDivisionError: division by zero"


def test_the_box_tells_of_every_file_and_goes_on_after_it(
    tab: Tab, tmp_path: Path
) -> None:
    image = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(image, "PNG")
    padding = bytes(
        14_000_000
    )  # which readers of images pass over, behind the end of one
    files = {
        "small.png": (image.getvalue(), "cloud/"),
        "photo.png": (
            image.getvalue() + padding,
            "photo.png has 14.0 MB, and the connection",
        ),
        "after.png": (image.getvalue(), "cloud/"),
        "paper.pdf": (b"%PDF" + padding, "paper.pdf has 14.0 MB"),
        "notes.txt": (b"no image", "Cannot read the image 'notes.txt'"),
        "again.png": (image.getvalue(), "cloud/"),
    }
    for name, (content, expected) in files.items():
        (tmp_path / name).write_bytes(content)
        before = tab.status()
        tab.choose(tmp_path / name)
        assert tab.status() != before and name in tab.status()  # cleared at once
        wait_for(
            lambda expected=expected: expected in tab.status(),
            f"{name}: {tab.status()}",
        )
        assert name in tab.status()


def test_of_ten_images_in_quick_succession_the_last_is_answered(
    tab: Tab, tmp_path: Path
) -> None:
    for number in range(10):
        path = tmp_path / f"fast{number}.png"
        Image.effect_noise((64, 64), 50).save(path)
        tab.choose(path)
    wait_for(lambda: "cloud/" in tab.status(), "the last answer")
    assert "fast9.png" in tab.status()


def test_a_file_may_be_dropped(tab: Tab) -> None:
    tab.value("""
        const sent = new DataTransfer();
        sent.items.add(new File(["no image"], "dropped.txt"));
        const options = { dataTransfer: sent, bubbles: true, cancelable: true };
        document.querySelector(".jp-OutputArea [role=status]").dispatchEvent(
            new DragEvent("drop", options));
    """)
    wait_for(
        lambda: "Cannot read the image 'dropped.txt'" in tab.status(), "the answer"
    )
