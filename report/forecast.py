"""What a build with images will take, as far as that is known before it starts.

What was measured is the committed report: `mini`, and hardly an image read. With
images, some notebooks show them to the encoder; with another model, encoding and
fitting take what its size makes of them. A build that was made once foretells itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from places import EMBEDDED, Places

N_IMAGES = 9_546  # of both data sets
WIDTH_OF_MINI = 320  # as wide as the tokens of mini are
START = 10.0  # seconds of a notebook that depend on no image and no model
# How often a notebook encodes all images; what was encoded once is kept, and not again.
PASSES = {
    "01_brain_tumor_mri": 0.74,
    "02_trashnet": 0.26,
    "03_alternatives": 2.3,
    "06_data_efficiency_and_robustness": 3.0,
    "08_explanations": 1.0,
    "14_file_traces": 1.5,
    "15_what_it_recognises": 2.8,
}
FITTING = {"03_alternatives": 1_800.0}  # seconds with images, beyond what was measured
ENCODERS = {"03_alternatives": 3, "08_explanations": 2}  # in memory at a time; else one


@dataclass(frozen=True)
class Task:
    """A notebook to execute, and what that is expected to need."""

    notebook: Path
    parameters: dict[str, str]
    cells: int
    seconds: float
    gigabytes: float


@dataclass(frozen=True)
class Load:
    """What images, model and limit of a build of one's own ask for."""

    share: float
    """Of all images, from 0 to 1, those that are drawn."""
    width: float
    """Of the features, as a multiple of those of mini."""
    seconds_per_image: float
    """To encode it, on one core."""
    gigabytes: float
    """Of memory for an encoder, beyond what mini takes."""


def adapted(
    tasks: list[Task], places: Places, given: dict[str, str], data: str, model: str
) -> list[Task]:
    """Return tasks with what they need given images, model and limit.

    Those that an earlier build of this kind has measured stay as they are; without
    images, or in the committed report, all do.
    """
    if not data or not places.name:
        return tasks
    load = load_of(given, model)
    measured = {path.stem for path in (places.work / "measured").glob("*.json")}
    return [
        task if task.notebook.stem in measured else task_with_load(task, load)
        for task in tasks
    ]


def task_with_load(task: Task, load: Load) -> Task:
    """Return a task with the seconds and gigabytes that it needs under a load.

    Encoding adds to what was measured without images; fitting grows with images and
    width of the features.
    """
    name = task.notebook.stem
    encoding = PASSES.get(name, 0.0) * N_IMAGES * load.seconds_per_image
    fitting = max(0.0, task.seconds - START) + FITTING.get(name, 0.0)
    seconds = min(START, task.seconds) + load.share * (encoding + load.width * fitting)
    gigabytes = task.gigabytes + ENCODERS.get(name, 1) * load.gigabytes
    return replace(task, seconds=seconds, gigabytes=gigabytes)


def share_of(given: dict[str, str]) -> float:
    """Return which share of all images, from 0 to 1, the parameter "limit" draws."""
    limit = float(given.get("limit", 0))  # of each of the two data sets; 0 for none
    return min(1.0, 2 * limit / N_IMAGES) if limit else 1.0


def model_in_words(name: str, given: dict[str, str], cores: int) -> str:
    """Say how large a model is, and how long it takes on so many cores to encode all.

    Both are estimated from its configuration; its weights are not loaded.
    """
    from cliplib.encoders.checkpoint import find_checkpoint
    from cliplib.encoders.cost import encoding_cost, flops_of_one_core

    cost = encoding_cost(find_checkpoint(name))
    images = round(N_IMAGES * share_of(given))
    minutes = max(1, round(cost.minutes(images, cores * flops_of_one_core())))
    return (
        f"{name}: {cost.parameters / 1e6:.0f} million parameters, "
        f"{cost.gigabytes:.1f} GB while they are loaded; to encode {images:,} images "
        f"once takes about {minutes} min on {cores} cores."
    )


def load_of(given: dict[str, str], model: str) -> Load:
    """Return what a model and the parameter "limit" ask of this processor."""
    from cliplib.encoders.checkpoint import find_checkpoint
    from cliplib.encoders.cost import encoding_cost, flops_of_one_core

    folder = find_checkpoint("mini" if model in EMBEDDED else model)
    cost = encoding_cost(folder)
    return Load(
        share=share_of(given),
        width=cost.width / WIDTH_OF_MINI,
        seconds_per_image=60 * cost.minutes(1, flops_of_one_core()),
        gigabytes=0.0 if model in EMBEDDED else cost.gigabytes,
    )
