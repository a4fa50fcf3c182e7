"""What the embedded CLIP learns from: pictures, words, and what two frozen teachers say of them.

Every expensive thing is made once and kept in a work folder: random views of the pictures, and the teachers' outputs.
A view is drawn once and then seen by teacher and student alike: a good teacher is consistent (Beyer et al., "Knowledge
distillation: a good teacher is patient and consistent", CVPR 2022).
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from tqdm.auto import tqdm
from transformers import CLIPTokenizer

from cliplib.errors import CliplibError
from cliplib.mini.teachers import teach_text, teach_vision

SIZE = 112  # pixels
COMPONENTS = 384  # principal components of the vision teacher's features that the student shall predict
TOKENS, VOCABULARY = 24, 4096
TEMPLATES = (
    "{}", "a photo of a {}", "a picture of the {}", "a close-up photo of a {}", "a cropped photo of a {}",
    "an image showing a {}",
)  # fmt: skip
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's CLIP
HELD_OUT_CAPTIONED = {"flickr8k_1k": 500, "coco_mini": 120, "fashion_products": 380}  # 1,000 pictures, never trained on
Array = NDArray[Any]


@dataclass
class Picture:
    """One picture of the corpus: its encoded bytes, what to call it, and what it may be confused with."""

    id: str
    source: str
    data: bytes
    concept: str  # pictures of one concept count as positives of each other
    captions: list[str]
    held_out: bool = False
    twin: bool = False  # near-duplicate of an evaluation image: never trained on
    label: str = ""
    texts: list[int] = field(default_factory=list)


def unit_hash(text: str) -> float:
    """A number in [0, 1) that depends on the text alone: held-out pictures stay held out, whatever else changes."""
    return int.from_bytes(blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48


def read_corpus(folder: Path) -> list[Picture]:
    """All pictures of ``folder/*.parquet`` (columns id, image, label, captions), held-out ones marked."""
    import pyarrow.parquet as pq

    pictures = []
    for file in sorted(folder.glob("*.parquet")):
        rows = []
        for row in pq.read_table(file).to_pylist():
            label = (row["label"] or "").strip()
            name = label.split("/")[-1].replace("_", " ")
            templates = ("{}", "a {} texture", "a photo of a {} surface") if file.stem == "dtd10" else TEMPLATES
            captions = [c.strip() for c in row["captions"] or []]
            if name and file.stem not in ("pacs", "busi_ultrasound"):  # theirs are template captions already
                captions += [t.format(name) for t in templates] if len(captions) < 2 else [f"a photo of {name}".lower()]
            rows.append(
                Picture(
                    row["id"],
                    file.stem,
                    row["image"]["bytes"],
                    label if len(set(row["captions"] or [])) < 2 else row["id"],
                    captions,
                    label=name,
                )
            )
        rows.sort(key=lambda p: unit_hash(p.id))
        share = {"caltech101": len(rows) // 10}.get(file.stem, HELD_OUT_CAPTIONED.get(file.stem, 0))
        for p in rows[:share]:
            p.held_out = True
        pictures += rows
    return pictures


def mark_twins(pictures: list[Picture], evaluation: Path) -> int:
    """Mark the pictures that are near-duplicates of an image of an evaluation set, and count them."""
    from cliplib.audit import find_twins
    from cliplib.data import DATASETS, load_dataset

    sets = [found for name in DATASETS if (found := load_dataset(name, data=evaluation)) is not None]
    paths = [row["path"] for images in sets for row in images["image"]]
    twins = set(find_twins([p.data for p in pictures], paths)["index_a"])
    for i in twins:
        pictures[i].twin = True
    return len(twins)


def view(data: bytes, seed: Sequence[int]) -> Array:
    """One random crop, uint8 ``(SIZE, SIZE, 3)``: area 35 to 100 %, colour jitter, one in four without colour."""
    rng = np.random.default_rng(seed)
    im = Image.open(io.BytesIO(data)).convert("RGB")
    w, h = im.size
    area, ratio = rng.uniform(0.35, 1) * w * h, np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    cw, ch = min(w, round((area * ratio) ** 0.5)), min(h, round((area / ratio) ** 0.5))
    x, y = rng.integers(0, w - cw + 1), rng.integers(0, h - ch + 1)
    im = im.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=(x, y, x + cw, y + ch))
    grey = rng.random() < 0.25
    for enhance, spread in ((ImageEnhance.Brightness, 0.3), (ImageEnhance.Contrast, 0.3), (ImageEnhance.Color, 0.3)):
        im = enhance(im).enhance(rng.uniform(1 - spread, 1 + spread))
    return np.asarray(im.convert("L").convert("RGB") if grey else im)


def make_views(pictures: list[Picture], number: int, work: Path) -> Array:
    """View ``number`` of every picture, uint8 ``(n, SIZE, SIZE, 3)``, kept on disk and mapped into memory."""
    file = work / f"view_{number}.npy"
    if not file.exists():
        out = np.lib.format.open_memmap(file.with_suffix(".part"), "w+", np.uint8, (len(pictures), SIZE, SIZE, 3))
        with ThreadPoolExecutor() as pool:
            jobs = pool.map(lambda i: view(pictures[i].data, (number, i)), range(len(pictures)))
            for i, pixels in enumerate(tqdm(jobs, total=len(pictures), desc=f"view {number}")):
                out[i] = pixels
        out.flush()
        file.with_suffix(".part").rename(file)
    views: Array = np.load(file, mmap_mode="r")
    return views


def synset_folder() -> Path:
    """Where the ``timm`` wheel lists ImageNet's names; found without importing it, which would need torchvision."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        raise CliplibError("Pretraining needs the names of ImageNet's classes: pip install timm.")
    return Path(spec.origin).parent / "data" / "_info"


def text_only() -> list[str]:
    """Names and definitions of ImageNet's 21,844 synsets, from the ``timm`` wheel: words that no picture carries."""
    info = synset_folder()
    lines = [
        line.split("\t")[1].strip()
        for name in ("lemma", "definition")
        for line in (info / f"imagenet_synset_to_{name}.txt").read_text().splitlines()
    ]
    return [line.split(",")[0] for line in lines[: len(lines) // 2]] + lines[len(lines) // 2 :]


def train_tokenizer(texts: list[str], vocabulary: int = VOCABULARY) -> CLIPTokenizer:
    """CLIP's byte-pair encoding with merges of our own: bytes, bytes that end a word, merges, two specials."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    blank = CLIPTokenizer().backend_tokenizer
    trainee = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    trainee.normalizer, trainee.pre_tokenizer = blank.normalizer, blank.pre_tokenizer
    trainee.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocabulary, end_of_word_suffix="</w>", show_progress=False)
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [tuple(m) for m in json.loads(trainee.to_str())["model"]["merges"]][: vocabulary - 2 * len(alphabet) - 2]
    tokens = [
        *alphabet,
        *(a + "</w>" for a in alphabet),
        *dict.fromkeys("".join(m) for m in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    return CLIPTokenizer(
        vocab={t: i for i, t in enumerate(dict.fromkeys(tokens))}, merges=merges, model_max_length=TOKENS
    )


def class_names() -> list[str]:
    """The 1,000 class names of ImageNet, in the teacher's order."""
    info = synset_folder()
    lemma = dict(line.split("\t")[:2] for line in (info / "imagenet_synset_to_lemma.txt").read_text().splitlines())
    return [lemma[s] for s in (info / "imagenet_synsets.txt").read_text().split()]


class _Rows:
    """Rows ``keep`` of an array that stays on disk."""

    def __init__(self, array: Array, keep: list[int]) -> None:
        self.array, self.keep = array, keep

    def __getitem__(self, i: int) -> Array:
        row: Array = self.array[self.keep[i]]
        return row


def prepare(pictures: list[Picture], args: argparse.Namespace) -> tuple[list[Picture], CLIPTokenizer, dict[str, Any]]:
    """Everything that the loop needs, from the cache or made now: pictures to train on, tokenizer, arrays."""
    views = [make_views(pictures, v, args.work) for v in range(args.views)]
    taught = [teach_vision(views[v], v, args.work, args.device) for v in range(args.views)]
    names = [line.split(",")[0] for line in class_names()]
    for i, p in enumerate(
        pictures
    ):  # a picture whose content the teacher is sure of gets the teacher's word for it as well
        probability = torch.from_numpy(taught[0][1][i].astype(np.float32)).softmax(-1)
        if not p.label and p.source != "emoji" and probability.max() > 0.5:
            p.captions = [*p.captions, f"a photo of a {names[int(probability.argmax())]}"]
    captions = sorted({c for p in pictures if not (p.held_out or p.twin) for c in p.captions})
    texts = captions + text_only()
    tokenizer = CLIPTokenizer.from_pretrained(args.start) if args.start else train_tokenizer(captions * 2 + texts)
    index = {c: i for i, c in enumerate(captions)}
    keep = [i for i, p in enumerate(pictures) if not (p.held_out or p.twin)]
    concepts = {c: i for i, c in enumerate(sorted({p.concept for p in pictures}))}
    for i in keep:
        pictures[i].texts = [index[c] for c in pictures[i].captions]
    features = np.concatenate([f[keep] for f, _ in taught]).astype(np.float32)
    centre, spread = features.mean(0), features.std(0) + 1e-6
    values, vectors = np.linalg.eigh(np.cov(((features - centre) / spread)[::4].T))
    top = (
        vectors[:, ::-1][:, :COMPONENTS] / values[::-1][:COMPONENTS] ** 0.25
    )  # half-way to white: small components count too
    scale = float((((features[:4096] - centre) / spread) @ top).std())
    data = {
        "views": [_Rows(v, keep) for v in views],
        "features": [(((f[keep] - centre) / spread) @ top / scale).astype(np.float16) for f, _ in taught],
        "logits": [logits[keep] for _, logits in taught],
        "tokens": np.asarray(
            tokenizer(texts, padding="max_length", truncation=True, max_length=TOKENS)["input_ids"], np.int16
        ),
        "sentences": teach_text(texts, args.work, args.device),
        "concepts": np.asarray([concepts[pictures[i].concept] for i in keep]),
        "first_text_only": len(captions),
        "mean": torch.tensor(MEAN, device=args.device).view(3, 1, 1),
        "std": torch.tensor(STD, device=args.device).view(3, 1, 1),
    }
    return [pictures[i] for i in keep], tokenizer, data
