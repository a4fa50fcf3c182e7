"""A classifier in a folder of its own: JSON and safetensors, so that opening one runs nothing that is in it."""

from __future__ import annotations

import json
import os
import shutil
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

from cliplib.encoder import ClipEncoder
from cliplib.errors import CliplibError
from cliplib.probes import load_probe, save_probe
from cliplib.table import FeatureTable

if TYPE_CHECKING:
    from cliplib.classifier import Classifier

FORMAT = "cliplib-classifier/1"
MAIN, ENCODER, PROBE, TRAINING = "classifier.json", "encoder", "probe", "training.safetensors"
WEIGHTS = f"{ENCODER}/model.safetensors"
NUMBERS = ("temperature", "min_probability", "min_similarity")


def write(classifier: Classifier, folder: Path) -> None:
    """Write everything; a classifier that is there is replaced, other files are left alone.

    Raises
    ------
    CliplibError
        It cannot be written, or something else is there.
    """
    try:
        if os.path.lexists(folder) and not (folder / MAIN).is_file() and any(folder.iterdir()):
            raise CliplibError(f"{str(folder)!r} holds something else than a classifier: choose another folder.")
        folder.mkdir(parents=True, exist_ok=True)
        for name in (MAIN, TRAINING):
            (folder / name).unlink(missing_ok=True)
        for name in (ENCODER, PROBE):
            shutil.rmtree(folder / name, ignore_errors=True)
        encoder = classifier.encoder
        for part in (encoder.model.config, encoder.tokenizer, encoder.preprocess.image_processor):
            part.save_pretrained(folder / ENCODER)
        save_file(encoder.model.state_dict(), folder / WEIGHTS, metadata={"format": "pt"})
        save_probe(classifier.probe, folder / PROBE)
        classifier.training.save(folder / TRAINING)
        # Last, beside all other files, and with their digests: without it, half a folder is refused.
        document = {"format": FORMAT, "encoder": encoder.name, "dtype": encoder.dtype, "about": dict(classifier.about)}
        document |= {key: getattr(classifier, key) for key in NUMBERS} | {"files": digests(folder)}
        text = json.dumps(document, indent=1, ensure_ascii=False)
        (folder / MAIN).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise CliplibError(f"Cannot write the classifier {str(folder)!r}: {error.strerror or error}.") from None


def read(folder: Path) -> dict[str, Any]:
    """Read the arguments of `Classifier` from a folder that :func:`write` made.

    Raises
    ------
    CliplibError
        One sentence: the folder or a file in it is missing, changed or cut short.
    """
    main = _read_main(folder)
    encoder = ClipEncoder.from_pretrained(folder / ENCODER, dtype=main.pop("dtype"))
    encoder.name = main.pop("encoder")
    return main | {
        "encoder": encoder,
        "probe": load_probe(folder / PROBE),
        "training": FeatureTable.load(folder / TRAINING),
    }


def _read_main(folder: Path) -> dict[str, Any]:
    """The content of ``classifier.json``, after all other files have been found whole and unchanged.

    Raises
    ------
    CliplibError
        One sentence: which file is missing or damaged.
    """
    if not (folder / MAIN).is_file():
        raise CliplibError(f"There is no classifier in the folder {str(folder)!r}: check its name, or save it anew.")
    try:
        document = json.loads((folder / MAIN).read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise ValueError(f"its format is {document['format']!r}, not {FORMAT!r}")
        found = digests(folder)
        files = {WEIGHTS: "", **document["files"]}  # these by name, since transformers would make do with a pickle
        if wrong := [name for name, digest in files.items() if found.get(name) != digest]:
            raise ValueError(f"its {wrong[0]} is missing, was changed or cut short")
        numbers = {key: float(document[key]) for key in NUMBERS}
        about = {str(key): value for key, value in document["about"].items()}
        return numbers | {"about": about} | {key: str(document[key]) for key in ("encoder", "dtype")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"its {MAIN} lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise CliplibError(
            f"The classifier {str(folder)!r} cannot be read ({reason}): copy the whole folder again, or save it anew."
        ) from None


def digests(folder: Path) -> dict[str, str]:
    """Digest of each file but the main one, by its path in the folder: it tells damage, not who made the folder."""
    found = [file for part in (ENCODER, PROBE) for file in (folder / part).rglob("*")] + [folder / TRAINING]
    return {
        file.relative_to(folder).as_posix(): blake2b(file.read_bytes(), digest_size=16).hexdigest()
        for file in sorted(found)
        if file.is_file()
    }
