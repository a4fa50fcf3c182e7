"""``ClipEncoder``: a frozen CLIP model that turns images and texts into features, fast, in flat memory, and once."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from functools import cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from tqdm.auto import tqdm

from cliplib.data import dataset_fingerprint
from cliplib.encoder.arguments import check_dataset, check_images, check_kind, check_texts, pooled_rows
from cliplib.encoder.checkpoint import MINI, fingerprint_weights, load_checkpoint
from cliplib.encoder.hardware import DTYPES, choose_device, choose_dtype, fastest_batch, plan, to_device, versions
from cliplib.encoder.pipeline import Extraction, Features, ImageSource, Run
from cliplib.encoder.preprocess import usable
from cliplib.errors import CliplibError, ImageError
from cliplib.store import FeatureStore
from cliplib.table import FeatureTable
from cliplib.zeroshot import normalized

if TYPE_CHECKING:
    import datasets

__all__ = ["ClipEncoder", "ImageSource", "Kind", "Run"]

logger = logging.getLogger(__name__)

Kind: TypeAlias = Literal["pooled", "projected"]

_RECIPE = "1"  # of decoding and fingerprints: raised when either changes, so that no stale feature is found


class ClipEncoder:
    """A CLIP model, frozen, with its image processor and tokenizer.

    On a CPU, several threads each take a few images from file to features, with one core for each forward pass, so
    decoding overlaps with computing and no core waits for another. On a GPU, threads prepare batches in pinned memory
    while one computes; this path is written, but untested for want of a GPU.

    Parameters
    ----------
    model : transformers.CLIPModel
        Taken over: moved to `device`, its vision tower cast to `dtype`.
    image_processor, tokenizer
        The model's own; the image processor without torchvision, ``CLIPImageProcessorPil``.
    name : str
        What to call it in messages and provenance.
    device : str
        A torch device, or "auto": a CUDA GPU if there is one, else the CPU.
    dtype : {"auto", "float32", "bfloat16", "float16"}
        Of the vision tower. "auto": bfloat16 where the hardware multiplies it natively, else float32. The text tower
        and both projections, cheap beside it, stay in float32, so that prompts mean the same on every machine.

    Attributes
    ----------
    name, device, dtype : str, torch.device, str
    dim, projection_dim, image_size : int
        Width of pooled and of projected features; side of the square that the vision tower sees, in pixels.
    logit_scale : float
        What cosine similarities are multiplied by, exp of the learned parameter (Radford et al. 2021, section 2.3).
    model, tokenizer, preprocess
        The parts; ``preprocess(image)`` gives the (3, size, size) float32 pixel values of an RGB image.
    last_run : Run
        What the latest :meth:`images` did: counts, errors, seconds.

    Raises
    ------
    CliplibError
        Unknown device or dtype, weights that are not finite, parts that do not fit together.
    """

    def __init__(
        self, model: Any, image_processor: Any, tokenizer: Any, *, name: str, device: str = "auto", dtype: str = "auto"
    ) -> None:
        self.name = name
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device)
        self.tokenizer = tokenizer
        config = model.config
        self.dim, self.projection_dim = int(config.vision_config.hidden_size), int(config.projection_dim)
        self.image_size = int(np.max(config.vision_config.image_size))
        self.preprocess = usable(image_processor, self.image_size, name)
        self._model_fingerprint = fingerprint_weights(model, self.preprocess.settings(), name)  # before any rounding
        self.logit_scale = float(model.logit_scale.detach().float().exp())
        self.model = model.eval().requires_grad_(False).to(self.device, torch.float32)
        self.model.vision_model.to(DTYPES[self.dtype])
        self._turn: AbstractContextManager[Any] = nullcontext() if self.device.type == "cpu" else threading.Lock()
        self.last_run = Run()
        one = np.zeros((1, 3, self.image_size, self.image_size), np.float32)
        self._find_batch = cache(lambda: fastest_batch(lambda n: self._forward(self._move(one.repeat(n, 0)), "pooled")))

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
    ) -> ClipEncoder:
        """Open a checkpoint: see :func:`cliplib.encoder.checkpoint.load_checkpoint`.

        Parameters
        ----------
        model : str or path, optional
            A hub id, a folder, or "mini". Empty or ``None``: the setting ``CLIPLIB_MODEL``, else "mini".
        device, dtype, revision
            As above; branch, tag or commit of a hub repository.
        """
        choose_dtype(dtype, choose_device(device))  # an unknown one is refused before anything is loaded
        found = load_checkpoint(model or os.environ.get("CLIPLIB_MODEL") or MINI, revision=revision)
        return cls(found.model, found.image_processor, found.tokenizer, name=found.name, device=device, dtype=dtype)

    def images(
        self,
        images: Sequence[ImageSource],
        *,
        kind: Kind = "pooled",
        normalize: bool = False,
        batch_size: int | None = None,
        store: FeatureStore | None = None,
        errors: Literal["raise", "report"] = "raise",
        progress: bool = True,
    ) -> Features:
        """Features of images.

        Parameters
        ----------
        images : sequence of n paths, bytes, PIL images or ``{"path", "bytes"}`` rows of a data set
            See :func:`cliplib.data.images.decode` for what becomes of unusual ones.
        kind : {"pooled", "projected"}
            "pooled": what the vision tower gives after its last layer norm, before the projection, as in OpenAI's
            linear probes (Radford et al. 2021, appendix A.3). "projected": in the space shared with texts.
        normalize : bool
            Scale each row to unit length.
        batch_size : int, optional
            Images computed at a time, over all threads, which is also the most that a killed run loses. Default: 16 per
            thread on a CPU; on a GPU the fastest of 32 to 256, which is tried out, or 128 for few images.
        store : FeatureStore, optional
            Where known features are looked up, by encoder and content, and new ones kept.
        errors : {"raise", "report"}
            What an unreadable image does: raise its `ImageError`, or have no row, a warning, and an entry in
            ``last_run.errors`` under its position. Rows and entries together are always n.
        progress : bool
            Show a progress bar.

        Returns
        -------
        (n, d) float32
            In the order given; d is `dim` or `projection_dim`; fewer rows only with errors="report".

        Raises
        ------
        CliplibError
            A bad argument, or an unusable store; an `ImageError` with errors="raise".
        """
        check_images(images, kind, errors, batch_size, store)
        start, run = time.perf_counter(), Run(len(images))
        self.last_run = run
        steps = Extraction(
            preprocess=self.preprocess, move=self._move, forward=lambda pixels: self._forward(pixels, kind),
            turn=self._turn, plan=plan(len(images), batch_size, self.device, self._find_batch), store=store,
            fingerprint=self.fingerprint(kind), run=run,
        )  # fmt: skip
        out = np.zeros((len(images), self.dim if kind == "pooled" else self.projection_dim), np.float32)
        bar = tqdm(total=len(images), desc=f"{self.name}: images", unit="image", disable=not progress)
        try:
            with bar, closing(steps.results(images)) as results:
                for rows, result in results:
                    bar.update(len(rows))
                    if not isinstance(result, ImageError):
                        out[rows] = result
                    elif errors == "raise":
                        raise result
                    else:
                        logger.warning("%s", result)
                        run.errors.update(dict.fromkeys(rows, result))
        except KeyboardInterrupt:
            kept = "nothing, for want of a store" if store is None else f"{store.path}, from where the next run goes on"
            logger.warning("Interrupted after %d new images; kept in: %s", run.computed, kept)
            raise
        logger.debug("%s in %.2f s", run, time.perf_counter() - start)
        if run.errors:
            out = np.delete(out, list(run.errors), axis=0)
        return normalized(out) if normalize else out

    def texts(self, texts: Sequence[str], *, normalize: bool = False, batch_size: int = 256) -> Features:
        """Features of texts, in the space of projected image features.

        Parameters
        ----------
        texts : sequence of n str
            Each is cut to the text tower's number of positions (77 in OpenAI's models).
        normalize : bool
            Scale each row to unit length.
        batch_size : int
            Texts computed at a time.

        Returns
        -------
        (n, projection_dim) float32
        """
        check_texts(texts, batch_size)
        longest = int(self.model.config.text_config.max_position_embeddings)
        out = np.zeros((len(texts), self.projection_dim), np.float32)
        for start in range(0, len(texts), batch_size):
            batch = list(texts[start : start + batch_size])
            tokens = self.tokenizer(batch, padding=True, truncation=True, max_length=longest, return_tensors="pt")
            with torch.inference_mode():
                found = self.model.get_text_features(**tokens.to(self.device)).pooler_output
            out[start : start + batch_size] = found.cpu().numpy()
        return normalized(out) if normalize else out

    def project(self, pooled: ArrayLike, *, normalize: bool = False) -> Features:
        """Projected image features, (n, projection_dim) float32, from pooled ones, (n, dim), not normalised."""
        rows = torch.from_numpy(pooled_rows(pooled, self.dim))
        with torch.inference_mode():
            out: Features = self.model.visual_projection(rows.to(self.device)).cpu().numpy()
        return normalized(out) if normalize else out

    def model_fingerprint(self) -> str:
        """Hash of weights, architecture and preprocessing: equal on every machine, whatever the dtype in use."""
        return self._model_fingerprint

    def fingerprint(self, kind: Kind = "pooled") -> str:
        """Hash of all that decides an image's features: those of the model, the dtype, and the kind."""
        check_kind(kind)
        parts = (self._model_fingerprint, self.dtype, kind, _RECIPE)
        return blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()

    def table(
        self,
        dataset: datasets.Dataset,
        *,
        kind: Kind = "pooled",
        store: FeatureStore | None = None,
        errors: Literal["raise", "report"] = "raise",
        batch_size: int | None = None,
        progress: bool = True,
    ) -> FeatureTable:
        """Features of a data set, not normalised, with all that is known about its rows.

        Parameters
        ----------
        dataset : datasets.Dataset
            As :func:`cliplib.data.load_dataset` gives it: image, label, id, split.
        kind, store, errors, batch_size, progress
            As in :meth:`images`. Under errors="report", the provenance lists unreadable images: "unreadable", a JSON
            object of ids and reasons.
        """
        check_dataset(dataset)
        features = self.images(
            dataset["image"], kind=kind, batch_size=batch_size, store=store, errors=errors, progress=progress
        )
        failed, digests = self.last_run.errors, self.last_run.digests
        keep = np.setdiff1d(np.arange(len(dataset)), list(failed))
        ids, info = np.array(dataset["id"][:], dtype=np.str_), dataset.info
        about = {
            "encoder": self.name, "encoder_fingerprint": self.fingerprint(kind), "kind": kind, "dtype": self.dtype,
            "model_fingerprint": self.model_fingerprint(), "normalized": "false",
            "dataset": info.dataset_name or "", "dataset_fingerprint": dataset_fingerprint(dataset, digests),
            "source": info.builder_name or "",
            **versions("cliplib", "torch", "transformers"),
        }  # fmt: skip
        if failed:
            about["unreadable"] = json.dumps({str(ids[row]): error.reason for row, error in sorted(failed.items())})
        return FeatureTable(
            features=features,
            labels=np.array(dataset["label"][:], dtype=np.int64)[keep],
            classes=tuple(dataset.features["label"].names),
            ids=ids[keep],
            splits=np.array(dataset["split"][:], dtype=np.str_)[keep],
            provenance=about,
        )

    def _move(self, pixels: Features) -> torch.Tensor:
        return to_device(torch.from_numpy(pixels), self.device, DTYPES[self.dtype])

    def _forward(self, batch: torch.Tensor, kind: Kind) -> Features:
        """(b, 3, size, size) pixel values, on the device, to (b, d) features."""
        with torch.inference_mode():
            pooled = self.model.vision_model(pixel_values=batch).pooler_output.float()
            rows = pooled if kind == "pooled" else self.model.visual_projection(pooled)
        out: Features = rows.cpu().numpy()
        if not np.isfinite(out).all():
            remedy = "get an intact copy" if self.dtype == "float32" else "use dtype='float32'"
            raise CliplibError(f"{self.name!r} gives infinite features in {self.dtype}: {remedy}.")
        return out
