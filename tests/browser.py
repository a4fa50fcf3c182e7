"""Opens every page of a built site in a headless Chromium and tells what is wrong.

python tests/browser.py build/web                              # needs chromium (Debian: apt install chromium)
python tests/browser.py build/web --screenshots build/shots    # and keeps a picture of each page

Of every page, at the width of a telephone and of a desk: no error in the console, no request that fails or leaves the
site, no picture or font that does not load, nothing wider than the window, no link or anchor that leads nowhere.
"""

from __future__ import annotations

import argparse
import base64
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import websocket

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = {"phone": 390, "desk": 1280}
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --hide-scrollbars --remote-debugging-port=0"
).split()
LOOK = """(async width => {
  await document.fonts.ready;
  await Promise.all([...document.images].map(image => image.decode().catch(() => null)));
  const wide = [...document.querySelectorAll("main *, nav *, header *")].filter(
    e => e.getBoundingClientRect().right > width + 1 && !e.closest(".scroll, pre, .equation, .skip"));
  return {
    title: document.title,
    height: document.documentElement.scrollHeight,
    overflow: document.documentElement.scrollWidth - width,
    wide: wide.slice(0, 3).map(e => e.outerHTML.slice(0, 120)),
    missing: [...document.images].filter(image => !image.naturalWidth).map(image => image.src),
    silent: [...document.images].filter(image => !image.alt).map(image => image.src),
    fonts: [...document.fonts].filter(font => font.status === "error").map(font => font.family),
    links: [...document.querySelectorAll("a[href]")].map(a => a.href),
    ids: [...document.querySelectorAll("[id]")].map(e => e.id),
  };
})"""


class Browser:
    """A headless Chromium with one tab, spoken to by the DevTools protocol."""

    def __init__(self, profile: str) -> None:
        command = [str(PROGRAM), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
        told, end = Path(profile) / "DevToolsActivePort", time.monotonic() + 120
        while not (told.exists() and told.read_text().count("\n")):
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                raise RuntimeError("The browser did not start.")
            time.sleep(0.1)
        address = "ws://127.0.0.1:{}{}".format(*told.read_text().split())
        self.socket = websocket.create_connection(address, timeout=120, suppress_origin=True)
        self.count, self.session = 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method and wait for its answer; events that come before it are kept."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        self.socket.send(json.dumps(message | ({"sessionId": self.session} if self.session else {})))
        while (answer := json.loads(self.socket.recv())).get("id") != self.count:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return dict(answer["result"])

    def open(self, address: str, width: int) -> dict[str, Any]:
        """Open a page in a window of this width, and look at it when it has loaded."""
        window = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **window)
        self.events.clear()
        self.call("Page.navigate", url=address)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(json.loads(self.socket.recv()))
        found = self.call("Runtime.evaluate", expression=f"{LOOK}({width})", awaitPromise=True, returnByValue=True)
        return dict(found["result"]["value"])

    def picture(self, width: int, height: int) -> bytes:
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, 8000), "scale": 1}  # more would exhaust it
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"])

    def close(self) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(60)


def faults(browser: Browser, look: dict[str, Any], site: str) -> list[str]:
    """What is wrong with the page that was opened last."""
    found = [f"no picture: {source}" for source in look["missing"]] + [f"no font: {name}" for name in look["fonts"]]
    found += [f"no alternative text: {source}" for source in look["silent"]]
    if look["overflow"] > 0 or look["wide"]:
        found.append(f"wider than the window by {look['overflow']} px: {look['wide']}")
    if not look["title"]:
        found.append("no title")
    for event in browser.events:
        method, given = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown" or (method == "Log.entryAdded" and given["entry"]["level"] == "error"):
            found.append(f"console: {json.dumps(given)[:600]}")
        elif method == "Runtime.consoleAPICalled" and given["type"] in ("error", "assert"):
            found.append(f"console: {json.dumps(given['args'])[:300]}")
        elif method == "Network.loadingFailed":
            found.append(f"failed request: {given.get('errorText')}")
        elif method == "Network.requestWillBeSent" and not given["request"]["url"].startswith((site, "data:")):
            found.append(f"request that leaves the site: {given['request']['url']}")
    return found


def dead_links(looks: dict[str, dict[str, Any]], site: str) -> list[str]:
    """Links into the site whose file or anchor is not there."""
    found = []
    for page, look in looks.items():
        for link in (link for link in look["links"] if not link.startswith(("http://", "https://"))):
            address, anchor = urldefrag(link)
            there = address.startswith(site) and Path(unquote(address.removeprefix("file://"))).is_file()
            if not there or (anchor and unquote(anchor) not in looks.get(address, {"ids": []})["ids"]):
                found.append(f"{page}: dead link {link}")
    return found


def check(folder: Path, screenshots: Path | None = None) -> list[str]:
    """All that is wrong with a site, one line each."""
    site = folder.resolve().as_uri() + "/"
    looks: dict[str, dict[str, Any]] = {}
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(profile)
        try:
            for page in sorted(folder.resolve().glob("*.html")):
                for name, width in WIDTHS.items():
                    looks[page.as_uri()] = look = browser.open(page.as_uri(), width)
                    wrong += [f"{page.name}, {name}: {fault}" for fault in faults(browser, look, site)]
                    if screenshots:
                        screenshots.mkdir(parents=True, exist_ok=True)
                        picture = browser.picture(width, look["height"])
                        (screenshots / f"{page.stem}_{name}.png").write_bytes(picture)
        finally:
            browser.close()
    return wrong + dead_links(looks, site)


def main() -> None:
    parser = argparse.ArgumentParser(description="Check a site in a headless Chromium.")
    parser.add_argument("site", type=Path)
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER", help="keep a picture of each page")
    options = parser.parse_args()
    pages = list(options.site.glob("*.html"))
    if not PROGRAM or not pages:
        sys.exit("There is no chromium: install it." if pages else f"There are no pages in {options.site}: make web.")
    wrong = check(options.site, options.screenshots)
    print("\n".join(wrong) if wrong else f"{len(pages)} pages at {len(WIDTHS)} widths: nothing wrong.")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
