"""What the tests share: a tiny CLIP, a folder of synthetic images, settings."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

# Before anything imports huggingface_hub, which reads it once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from cliplib.encoder import ClipEncoder

CLASSES = ("disc", "square", "stripes")
COLOURS = {"disc": (200, 60, 50), "square": (60, 160, 80), "stripes": (60, 80, 200)}
WORDS = [
    "a photo of a disc",
    "a photo of a square",
    "a drawing of blue stripes",
    "red green",
]


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start every test without settings, and let it write into its own folder."""
    for name in ("CLIPLIB_DATA", "CLIPLIB_DTYPE", "CLIPLIB_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLIPLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CLIPLIB_FIGURES", str(tmp_path / "figures"))


def make_tokenizer() -> CLIPTokenizer:
    """Learn CLIP's byte-pair encoding from a handful of words."""
    blank = CLIPTokenizer().backend_tokenizer
    learner = Tokenizer(
        models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix="")
    )
    learner.normalizer, learner.pre_tokenizer = blank.normalizer, blank.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=600, end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator(WORDS, trainer)
    merges = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [
        *alphabet,
        *(letter + "</w>" for letter in alphabet),
        *map("".join, merges),
    ]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=16)


def make_checkpoint(folder: Path, *, layers: int = 3, seed: int = 0) -> Path:
    """Write a CLIP of 32 wide towers that sees 32 x 32 pixels, with random weights."""
    tokenizer = make_tokenizer()
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    tower["num_hidden_layers"] = layers
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
    }
    text = {
        **tower,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 16,
        **special,
    }
    config = CLIPConfig(
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        text_config=text,
        projection_dim=24,
        **special,
    )
    torch.manual_seed(seed)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    side = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=side).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny(checkpoint: Path) -> ClipEncoder:
    return ClipEncoder(checkpoint, cache=False)


@pytest.fixture(scope="session")
def mini() -> ClipEncoder:
    return ClipEncoder("mini", cache=False)


def draw(kind: str, rng: np.random.Generator, side: int = 48) -> Image.Image:
    """Draw a noisy image of one of `CLASSES`; no two are near-duplicates."""
    pixels = rng.integers(150, 256, (side, side, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    pen = ImageDraw.Draw(image)
    x, y = rng.integers(4, 16, 2).tolist()
    box = (x, y, x + 26, y + 26)
    if kind == "disc":
        pen.ellipse(box, fill=COLOURS[kind])
    elif kind == "square":
        pen.rectangle(box, fill=COLOURS[kind])
    else:
        for offset in range(0, side, 8):
            pen.line((offset, 0, offset + x, side), fill=COLOURS[kind], width=3)
    return image


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder of class folders: image_folder(n=8, splits=("train", "test"))."""

    def make(
        n: int = 8, splits: tuple[str, ...] = ("",), name: str = "images", seed: int = 0
    ) -> Path:
        rng = np.random.default_rng(seed)
        for split in splits:
            for kind in CLASSES:
                folder = tmp_path / name / split / kind
                folder.mkdir(parents=True)
                for i in range(n):
                    draw(kind, rng).save(folder / f"{kind}{i}.png")
        return tmp_path / name

    return make


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """An image with coarse and fine structure."""
    rng = np.random.default_rng(0)
    shapes = ((6, 8, 3), (60, 80, 3))
    layers = [
        Image.fromarray(rng.integers(0, 160, shape, np.uint8)) for shape in shapes
    ]
    return Image.blend(*(layer.resize((400, 300)) for layer in layers), 0.4)
