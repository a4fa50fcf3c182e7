"""The audit for near-duplicates among 10,000 pictures, against imagededup; mirrored copies are planted among them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from measure import Options, Row, absent, in_turn, pictures, ratios
from PIL import Image, ImageOps

from cliplib.audit.twins import near_pairs, take_prints

WORK = "audit for near-duplicates"
PEER = "imagededup: its perceptual hash and its search"
COUNT, MIRRORED = 10_000, 400


def fill(folder: Path, found: list[Path], count: int) -> list[Path]:
    """Links to the pictures, then random cuts of them until there are enough, then mirrored copies of the first."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = []
    for number in range(count - MIRRORED):
        source = found[number % len(found)]
        names.append(
            folder / f"{number:05d}{source.suffix.lower() if number < len(found) else '.jpg'}"
        )
        if number < len(found):
            os.link(source, names[-1]) if source.stat().st_dev == folder.stat().st_dev else names[
                -1
            ].symlink_to(source)
            continue
        with Image.open(source) as image:
            side = min(image.size)
            left, top = (int(rng.integers(0, size - side * 6 // 10)) for size in image.size)
            image.convert("RGB").crop(
                (left, top, left + side * 6 // 10, top + side * 6 // 10)
            ).save(names[-1])
    for number in range(MIRRORED):
        names.append(folder / f"mirrored{number:05d}.jpg")
        with Image.open(names[number]) as image:
            ImageOps.mirror(image.convert("RGB")).save(names[-1], quality=95)
    return names


def run(options: Options) -> list[Row]:
    """The row about the audit."""
    try:
        from imagededup.methods import PHash
    except Exception as error:
        return [absent(WORK, PEER, 2, error)]
    folder = options.scratch / "audit"
    count = min(COUNT, options.most)
    files = fill(folder, pictures(options)[: count - MIRRORED], count)
    made: dict[str, Any] = {}

    def ours() -> None:
        prints = take_prints(files, progress=False)
        made["ours"] = prints, near_pairs(prints)

    def peer() -> None:
        made["peer"] = PHash(verbose=False).find_duplicates(image_dir=folder)

    seconds = in_turn({"ours": ours, PEER: peer}, options.rounds, warm=False)
    prints, pairs = made["ours"]
    flipped = pairs[pairs["mirrored"]]
    same = dict(
        zip(range(len(files)), prints.first[prints.distinct], strict=True)
    )  # copies stand for one another
    together = set(zip(flipped["index_a"], flipped["index_b"], strict=True))
    mine = [(same[n], same[count - MIRRORED + n]) for n in range(MIRRORED)]
    theirs = [
        files[count - MIRRORED + n].name in made["peer"][files[n].name] for n in range(MIRRORED)
    ]
    row = Row(f"{WORK}, {count:,} pictures", PEER, **ratios(seconds, PEER, "ours"), goal=2)
    row.rates = {
        "ours (images/s)": count / float(np.median(seconds["ours"])),
        "peer (images/s)": count / float(np.median(seconds[PEER])),
        "mirrored copies found, ours": float(
            np.mean([tuple(sorted(pair)) in together for pair in mine])
        ),
        "mirrored copies found, peer": float(np.mean(theirs)),
    }
    row.note = (
        f"{MIRRORED} mirrored copies are among the pictures; symmetric ones count as plain copies"
    )
    return [row]
