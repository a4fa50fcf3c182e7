"""Words to Typst: plain text as string literals, Markdown and HTML through pandoc."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pypandoc
from bs4 import BeautifulSoup

MATH_FILTER, RAW_FILTER = (Path(__file__).parent / name for name in ("math.lua", "raw.lua"))
MATH_ENVIRONMENT = re.compile(r"(?<!\$)(\\begin\{(align|equation|gather|multline)(\*?)\}.*?\\end\{\2\3\})", re.DOTALL)
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def typst_string(text: str) -> str:
    """Quote a text as a Typst string literal, so that nothing that a cell prints is read as markup."""
    text = CONTROL.sub("", text.replace("\r\n", "\n")).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + text.replace("\n", "\\n").replace("\t", "    ") + '"'


@cache
def pandoc(text: str, source: str, shift: int) -> str:
    """Convert to Typst with the pandoc of the ``pypandoc_binary`` wheel."""
    command = [pypandoc.get_pandoc_path(), "--from", source, "--to", "typst", "--wrap", "none"]
    command += [
        "--shift-heading-level-by",
        str(shift),
        "--lua-filter",
        str(RAW_FILTER),
        "--lua-filter",
        str(MATH_FILTER),
    ]
    return subprocess.run(command, input=text, capture_output=True, encoding="utf-8", check=True).stdout


def markdown_to_typst(text: str, shift: int = 1) -> str:
    """Convert a Markdown cell; HTML in it is shown as text."""
    text = MATH_ENVIRONMENT.sub(r"$$\1$$", text)  # Jupyter shows a bare \begin{align}, pandoc drops it
    return repair(pandoc(text, "gfm+tex_math_dollars-gfm_auto_identifiers-raw_html", shift))


def html_to_typst(html: str) -> str:
    """Convert what a cell shows as HTML, without pictures and scripts."""
    soup = BeautifulSoup(html, "html.parser")
    for unprintable in soup(["script", "style", "img", "svg", "iframe", "object"]):
        unprintable.decompose()
    return repair(pandoc(str(soup), "html-native_divs-native_spans-auto_identifiers", 3)).strip()


def repair(typst: str) -> str:
    """Mend what pandoc 3.9 writes and typst 0.15 refuses."""
    typst = re.sub(r"\b(dot|times|plus|minus|eq|div|slash)\.circle\b", r"\1.o", typst)  # \odot, \otimes, ...
    typst = re.sub(r"#link\(<[^>]*>\)", "", typst)  # [x](#anchor): there is no such label here
    return re.sub(r'#box\(image\("https?://[^"]*"[^)]*\)\)', "", typst)  # pictures from the web


def steady(text: str) -> str:
    """Mask what differs between two equal runs: kernel process ids and memory addresses."""
    text = re.sub(r"\S*[/\\]ipykernel_\d+[/\\]\d+\.py", "<cell>", text)
    return re.sub(r"\b0x[0-9a-f]{6,16}\b", "0x…", text)
