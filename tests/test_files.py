"""Files that take the place of older ones: whole, whatever happens, or not at all."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from cliplib.data.files import NotWrittenError, check_writable, replacing
from cliplib.data.image import UnreadableImage, load_image

NAMES = ("page.html", "page.pdf", "table.csv")


def write(folder: Path, text: str) -> None:
    with replacing(folder) as new:
        for name in NAMES:
            (new / name).write_text(text * 100_000)


def read(folder: Path) -> str:
    """Return the first letters of all files, each of which must be whole."""
    texts = [(folder / name).read_text() for name in NAMES]
    assert all(len(text) == 100_000 and len(set(text)) == 1 for text in texts)
    return "".join(text[0] for text in texts)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a child process")
def test_a_run_that_is_killed_leaves_each_file_old_or_new(tmp_path: Path) -> None:
    write(tmp_path, "a")
    (tmp_path / "mine.txt").write_text("keep me")
    seen = set()
    for step in itertools.count():
        child = os.fork()
        if child == 0:
            taken = itertools.count()

            def kill(
                event: str, _: tuple[Any, ...], counter: Any = taken, at: int = step
            ) -> None:
                if event in ("open", "os.rename", "os.remove") and next(counter) == at:
                    os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(kill)
            try:
                write(tmp_path, "b")
            finally:
                os._exit(0)
        was_killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        seen.add(read(tmp_path))
        if not was_killed:
            break
    assert step > 5 and {"aaa", "bbb"} <= seen
    write(tmp_path, "c")
    assert read(tmp_path) == "ccc" and (tmp_path / "mine.txt").is_file()


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt, ValueError])
def test_a_block_that_fails_leaves_what_was_there(
    tmp_path: Path, kind: type[BaseException]
) -> None:
    write(tmp_path, "a")
    raised = NotWrittenError if kind is OSError else kind
    with pytest.raises(raised) as told, replacing(tmp_path) as new:
        (new / NAMES[0]).write_text("b")
        raise kind(errno.ENOSPC, "No space left on device")
    if kind is OSError:
        assert f"Nothing was written to {tmp_path} ([Errno 28] No" in str(told.value)
        assert "make room" in str(told.value)
    assert read(tmp_path) == "aaa"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)


def test_an_image_that_is_gone_is_no_fault_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="Cannot read"), replacing(tmp_path):
        load_image(tmp_path / "gone.png")
    assert not [*tmp_path.iterdir()]


def test_a_folder_is_made_and_a_link_is_not_written_through(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    check_writable(out)
    assert not out.exists()
    out.mkdir(parents=True)
    (tmp_path / "thesis.txt").write_text("mine")
    (out / NAMES[0]).symlink_to(tmp_path / "thesis.txt")
    write(out, "b")
    assert read(out) == "bbb"
    assert (tmp_path / "thesis.txt").read_text() == "mine"
