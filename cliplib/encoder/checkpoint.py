"""Opening a CLIP checkpoint, from the hub, a folder or the package itself: tensors and settings, nobody's code."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from cliplib.errors import CliplibError, path_text

logger = logging.getLogger(__name__)

MINI = "mini"
"""Name of the embedded model."""

_SETTINGS = (
    "config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
    "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
_SAFE = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
_BINARY = ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json")
_INSTEAD = f"a folder with a checkpoint works too, and so does {MINI!r}, the embedded model"


@dataclass(frozen=True)
class Checkpoint:
    """A CLIP model with all that belongs to it; `name` is a hub id, a folder's last name, or ``"mini"``."""

    model: CLIPModel
    image_processor: CLIPImageProcessorPil
    tokenizer: CLIPTokenizer
    name: str


def load_checkpoint(model: str | os.PathLike[str], *, revision: str | None = None) -> Checkpoint:
    """Open a checkpoint in Hugging Face format, on the CPU and in float32.

    Weights come from safetensors where there are any, else from ``pytorch_model.bin`` through torch's weights-only
    unpickler, which builds tensors and runs nothing. Code that comes with a repository is never run. The network is
    used for a hub id only; without it, an earlier download serves.

    Parameters
    ----------
    model : str or path
        A folder, a hub id such as ``"openai/clip-vit-base-patch32"``, or ``"mini"``.
    revision : str, optional
        Branch, tag or commit of a hub repository.

    Raises
    ------
    CliplibError
        One sentence: not found, not a CLIP checkpoint, incomplete, damaged, or not to be trusted.
    """
    text = path_text(model, "A model")
    folder, name = _locate(text, revision)
    shown = f"The checkpoint {text!r}"
    _check_settings(folder, shown)
    safe = any(folder.glob("model*.safetensors"))
    if not safe and not any(folder.glob("pytorch_model*.bin")):
        raise CliplibError(f"{shown} has no weights: neither model.safetensors nor pytorch_model.bin.")
    try:
        with _quiet():
            clip, info = CLIPModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=safe, weights_only=True, dtype=torch.float32,
                attn_implementation="sdpa", output_loading_info=True,
            )  # fmt: skip
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            processor = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
    except UnpicklingError:
        raise CliplibError(
            f"{shown} is refused: its pytorch_model.bin is damaged or holds more than tensors, which could run code "
            "when opened; use a safetensors copy."
        ) from None
    except Exception as error:  # damaged files make the loaders raise nearly anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise CliplibError(f"{shown} cannot be loaded, it is damaged or incomplete ({reason}).") from error
    if missing := sorted(info["missing_keys"]):
        raise CliplibError(f"{shown} lacks {len(missing)} weights, the first is {missing[0]!r}: it is incomplete.")
    if unknown := sorted(key for key in info["unexpected_keys"] if not key.endswith("position_ids")):
        logger.warning("%s: %d weights have no place in CLIPModel, the first is %s", name, len(unknown), unknown[0])
    if len(tokenizer) > clip.config.text_config.vocab_size:
        raise CliplibError(
            f"{shown} does not fit together: its tokenizer has {len(tokenizer):,} tokens, its text tower "
            f"{clip.config.text_config.vocab_size:,}."
        )
    return Checkpoint(clip.eval(), processor, tokenizer, name)


def fingerprint_weights(model: CLIPModel, preprocessing: dict[str, Any], name: str) -> str:
    """Hash of a model's weights and architecture and of its preprocessing.

    The weights count as float32 values under their sorted names, so a checkpoint has one fingerprint in whatever format
    and number of files it is kept, and on every machine.

    Raises
    ------
    CliplibError
        A weight is NaN or infinite.
    """
    total = blake2b(digest_size=16)
    described: dict[str, Any] = {"preprocessing": preprocessing}
    for tower in ("vision_config", "text_config"):  # what the shapes of the weights do not tell
        config = getattr(model.config, tower)
        keys = ("hidden_act", "layer_norm_eps", "num_attention_heads", "image_size", "patch_size", "eos_token_id")
        described[tower] = {key: getattr(config, key, None) for key in keys}
    total.update(json.dumps(described, sort_keys=True).encode())
    for key, weight in sorted(model.named_parameters(), key=lambda pair: pair[0]):
        values = weight.detach().cpu().float().contiguous()
        if not bool(torch.isfinite(values).all()):
            raise CliplibError(f"The model {name!r} has NaN or infinity in its weight {key!r}: get an intact copy.")
        total.update(f"\n{key} {tuple(values.shape)}\n".encode())
        total.update(values.numpy().astype("<f4", copy=False).data)
    return total.hexdigest()


def _locate(model: str, revision: str | None) -> tuple[Path, str]:
    if model == MINI:
        return Path(__file__).parent.parent / "mini", MINI
    path = Path(os.path.expanduser(model))
    if path.is_dir():
        return path, path.resolve().name
    if path.exists() or path.is_absolute() or model.startswith(".") or len(path.parts) != 2:
        raise CliplibError(
            f"There is no model {model!r}: name a folder with a checkpoint, a hub id such as "
            f"'openai/clip-vit-base-patch32', or {MINI!r}, the embedded model."
        )
    return _download(model, revision), model


def _download(repository: str, revision: str | None) -> Path:
    # A snapshot, not from_pretrained's own download: that one asks a service on the hub to convert a .bin unbidden.
    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=[*_SETTINGS, *_SAFE]))
        if not any(folder.glob("model*.safetensors")):
            folder = Path(snapshot_download(repository, revision=revision, allow_patterns=[*_SETTINGS, *_BINARY]))
        return folder
    except GatedRepoError:
        reason = "the hub wants you to log in and to accept its licence first"
    except RevisionNotFoundError:
        reason = f"it has no revision {revision!r}"
    except (RepositoryNotFoundError, HFValidationError):
        reason = "there is no such folder, and the hub has no public model of this name"
    except Exception as error:  # no network shows itself in many ways
        logger.debug("download of %s failed", repository, exc_info=error)
        reason = "there is no such folder, the hub cannot be reached, and no complete copy is in the local cache"
    raise CliplibError(f"Cannot get the model {repository!r}: {reason}; {_INSTEAD}.")


def _check_settings(folder: Path, shown: str) -> None:
    if not (folder / "config.json").is_file():
        raise CliplibError(f"{shown} is not a checkpoint: there is no config.json in it.")
    for name in ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer_config.json"):
        if (folder / name).is_file() and "auto_map" in _json(folder / name, shown):
            raise CliplibError(f"{shown} is refused: its {name} asks to run code of its own, which is never done here.")
    kind = _json(folder / "config.json", shown).get("model_type")
    if kind != "clip":
        raise CliplibError(f"{shown} is a model of the type {kind!r}; only CLIP checkpoints (type 'clip') work here.")
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        raise CliplibError(f"{shown} is incomplete: preprocessor_config.json, for scaling images, is missing.")
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        raise CliplibError(f"{shown} is incomplete: its tokenizer (tokenizer.json, or vocab.json) is missing.")


def _json(path: Path, shown: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CliplibError(f"{shown} is damaged: its {path.name} cannot be read ({error}).") from None
    if not isinstance(content, dict):
        raise CliplibError(f"{shown} is damaged: its {path.name} is not a JSON object.")
    return content


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar and no report of transformers while a model loads: what matters is said by this module."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
