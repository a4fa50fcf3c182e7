"""What the README shows of the command line: python readme_session.py README.md.

Run where cliplib is installed, in an empty folder: it needs nothing of the checkout.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


def code_that_makes_images(readme: str) -> str:
    """Return the block of Python that makes the folders photos and new."""
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    (code,) = (block for block in blocks if "skimage" in block)
    return code


def commands(readme: str) -> Iterator[tuple[list[str], str]]:
    """Yield each command of the sessions, and what is shown below it."""
    for session in re.findall(r"```\n(\$ .*?)```", readme, re.DOTALL):
        for part in re.split(r"^\$ ", session, flags=re.MULTILINE)[1:]:
            line, _, shown = part.partition("\n")
            yield shlex.split(line), shown


def main(readme: str) -> None:
    subprocess.run([sys.executable, "-c", code_that_makes_images(readme)], check=True)
    for command, shown in commands(readme):
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        assert done.stdout == shown, f"{shlex.join(command)} printed\n{done.stdout}"


if __name__ == "__main__":
    main(Path(sys.argv[1]).read_text("utf-8"))
