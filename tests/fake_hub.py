"""A model hub on the loopback interface, with the layouts that are published.

It answers what the hub's client asks, from a folder of repositories, and has switches
for what goes wrong with real ones.
"""

from __future__ import annotations

import hashlib
import json
import ssl
import subprocess
import threading
import time
import urllib.parse
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import close_session

LARGE = (".bin", ".safetensors", ".zip", ".msgpack", ".h5")  # kept by their SHA-256
STORAGE = "http://127.0.0.1:9"  # where nobody answers
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", "v1", COMMIT)

ERRORS = {
    "gated": (403, {"X-Error-Code": "GatedRepo"}),
    "bad token": (
        401,
        {"X-Error-Message": "Invalid credentials in Authorization header"},
    ),
    "not found": (404, {"X-Error-Code": "RepoNotFound"}),
    "no revision": (404, {"X-Error-Code": "RevisionNotFound"}),
}


class FakeHub(ThreadingHTTPServer):
    """A hub that serves ``folder/models/OWNER/NAME`` and ``folder/datasets/…``.

    Attributes
    ----------
    fault
        "", a status code, one of `ERRORS`, "login page", "hang", "breaks off" or
        "no storage": large files are where nobody answers.
    requests
        What was asked for, as "METHOD path", with the range of bytes if one was asked.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.fault = ""
        self.scheme = "http"
        self.requests: list[str] = []
        # It looks that often whether it shall end: by default every half a second.
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self) -> str:
        """Where it is, as HF_ENDPOINT names a hub."""
        return f"{self.scheme}://127.0.0.1:{self.server_port}"

    def use_certificate(self, folder: Path) -> None:
        """Speak TLS from now on, with a certificate that nobody trusts."""
        names = ["-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
        command = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=127.0.0.1"
        subprocess.run([*command.split(), *names], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.scheme = "https"
        close_session()

    def use(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        """Let the client in this process ask this hub, and keep files in `cache`."""
        place = "huggingface_hub.constants."
        path = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(f"{place}HF_HUB_OFFLINE", False)
        monkeypatch.setattr(f"{place}ENDPOINT", self.address)
        monkeypatch.setattr(f"{place}HUGGINGFACE_CO_URL_TEMPLATE", self.address + path)
        monkeypatch.setattr(f"{place}HF_HUB_CACHE", str(cache))

    def end(self) -> None:
        """Answer no more, not even on connections that are open."""
        self.shutdown()
        self.server_close()
        close_session()

    def environment(self, cache: Path) -> dict[str, str]:
        """Return the variables that let another process do the same."""
        return {
            "HF_ENDPOINT": self.address,
            "HF_HUB_CACHE": str(cache),
            "HF_HUB_OFFLINE": "0",
        }

    def fetched(self) -> list[str]:
        """Return the names of the files that were sent."""
        sent = [each for each in self.requests if each.startswith("GET")]
        return [
            each.split("/")[-1].split(" ")[0] for each in sent if "/resolve/" in each
        ]


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"
    # Head and body are sent apart: the second would wait for the first's receipt.
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""

    def do_CONNECT(self) -> None:
        """Refuse, as a proxy does, to let a client through to a hub behind TLS."""
        self.send(b"", {}, int(self.server.fault))

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def do_POST(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        address = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(address.path)
        if path == "/api/agent-harnesses":  # the client, on its own behalf
            self.send(b"", {}, 404)
            return
        asked = f"{self.command} {path} {self.headers.get('Range', '')}"
        self.server.requests.append(asked.strip())
        fault = self.server.fault
        if fault == "hang":
            time.sleep(10)  # in a thread that nobody waits for
            self.close_connection = True  # who waited so long is not kept waiting
        elif fault == "login page":
            self.send(b"<html>Please log in</html>", {"Content-Type": "text/html"})
        elif fault.isdigit():
            self.send(b"", {}, int(fault))
        elif fault in ERRORS:
            status, headers = ERRORS[fault]
            self.send(b"", headers, status)
        elif path.startswith("/api/"):
            self.describe(path.removeprefix("/api/"))
        else:
            self.serve(path, with_body=with_body)

    def describe(self, path: str) -> None:
        """List a repository's files, with their hashes if its tree is asked for."""
        kind, owner, name, *rest = path.split("/")
        folder = self.server.folder / kind / owner / name
        if not folder.is_dir():
            self.send(b"", {"X-Error-Code": "RepoNotFound"}, 404)
            return
        if rest and rest[-1] not in REVISIONS:
            self.send(b"", {"X-Error-Code": "RevisionNotFound"}, 404)
            return
        files = sorted(folder.iterdir())
        if rest[:1] == ["tree"]:
            listing: Any = [in_tree(file) for file in files]
        else:
            names = [{"rfilename": file.name} for file in files]
            listing = {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": names}
        self.send(json.dumps(listing).encode(), {"Content-Type": "application/json"})

    def serve(self, path: str, *, with_body: bool) -> None:
        """Send a file, or a part of it."""
        repository, _, file = path.partition("/resolve/")
        kind = "datasets" if repository.startswith("/datasets/") else "models"
        name = repository.removeprefix("/datasets").strip("/")
        found = self.server.folder / kind / name / file.split("/", 1)[1]
        if not found.is_file():
            self.send(b"", {"X-Error-Code": "EntryNotFound"}, 404)
            return
        content = found.read_bytes()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag(found)}"'}
        if found.suffix in LARGE:
            headers["X-Linked-Etag"] = headers["ETag"]
            headers["X-Linked-Size"] = str(len(content))
            if self.server.fault == "no storage":
                self.send(b"", headers | {"Location": f"{STORAGE}/file"}, 302)
                return
        status = 200
        start = self.headers.get("Range", "").removeprefix("bytes=").split("-")[0]
        if start:
            status, whole = 206, len(content)
            content = content[int(start) :]
            headers["Content-Range"] = f"bytes {start}-{whole - 1}/{whole}"
        if with_body and self.server.fault == "breaks off" and found.suffix in LARGE:
            self.server.fault = "500"  # and it does not come back at once
            self.send(content, headers, status, sent=len(content) // 2)
            return
        self.send(content if with_body else b"", headers, status, size=len(content))

    def send(
        self,
        content: bytes,
        headers: dict[str, str],
        status: int = 200,
        *,
        size: int | None = None,
        sent: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        length = len(content) if size is None else size
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content[:sent])
        if sent is not None:
            self.close_connection = True


def in_tree(file: Path) -> dict[str, Any]:
    """Return the entry of a file in the list of a repository's tree."""
    size = file.stat().st_size
    entry: dict[str, Any] = {"type": "file", "path": file.name, "size": size}
    if file.suffix in LARGE:
        entry["lfs"] = {"oid": etag(file), "size": size, "pointerSize": 134}
    return entry | {"oid": etag(file)[:40]}


def etag(file: Path) -> str:
    """Return what a file is called in the cache: SHA-256 if it is large, else SHA-1."""
    content = file.read_bytes()
    if file.suffix in LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def make_trashnet(folder: Path, images: dict[str, bytes]) -> Path:
    """Write the archive of a data set with the layout of TrashNet's."""
    home = folder / "datasets" / "garythung" / "trashnet"
    home.mkdir(parents=True)
    with zipfile.ZipFile(home / "dataset-resized.zip", "w") as archive:
        for name, content in images.items():
            archive.writestr(f"dataset-resized/{name}", content)
        archive.writestr("__MACOSX/dataset-resized/._glass", b"left by macOS")
        archive.writestr("dataset-resized/.DS_Store", b"left by macOS")
    (home / "dataset-original.zip").write_bytes(b"every photograph again")
    return home
