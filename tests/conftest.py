"""What the tests share: a tiny CLIP with random weights, a synthetic data set, and settings that are nobody's own."""

from __future__ import annotations

import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub, which reads it once
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
WORDS = ["a photo of a disc", "a photo of a square", "a drawing of blue stripes", "the quick brown fox", "red green"]


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test starts with cliplib's settings at nothing, and writes into its own temporary folder."""
    for name in ("CLIPLIB_DATA", "CLIPLIB_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLIPLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CLIPLIB_FIGURES", str(tmp_path / "figures"))


def make_tokenizer(max_length: int = 16) -> CLIPTokenizer:
    """CLIP's byte-pair encoding, with merges learned from a handful of words."""
    blank = CLIPTokenizer().backend_tokenizer
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    learner.normalizer, learner.pre_tokenizer = blank.normalizer, blank.pre_tokenizer
    learner.train_from_iterator(
        WORDS, trainers.BpeTrainer(vocab_size=600, end_of_word_suffix="</w>", show_progress=False)
    )
    merges = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(merge) for merge in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, model_max_length=max_length)


def make_checkpoint(folder: Path, *, seed: int = 0) -> Path:
    """A CLIP of 2 x 32 that sees 32 x 32 pixels, with random weights, in Hugging Face format."""
    tokenizer = make_tokenizer()
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    special["pad_token_id"] = tokenizer.eos_token_id
    config = CLIPConfig(
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        text_config={**tower, "vocab_size": len(tokenizer), "max_position_embeddings": 16, **special},
        projection_dim=24,
    )
    torch.manual_seed(seed)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny CLIP checkpoint; not to be changed."""
    return make_checkpoint(tmp_path_factory.mktemp("models") / "tiny-clip")


@pytest.fixture(scope="session")
def tiny_encoder(tiny_checkpoint: Path) -> ClipEncoder:
    """The tiny CLIP, in float32 on the CPU."""
    return ClipEncoder.from_pretrained(tiny_checkpoint, device="cpu", dtype="float32")


def draw(kind: str, rng: np.random.Generator, size: tuple[int, int] = (56, 44)) -> Image.Image:
    """A noisy picture of a coloured shape."""
    image = Image.new("RGB", size, tuple(int(v) for v in rng.integers(200, 256, 3)))
    pen, colour = ImageDraw.Draw(image), COLOURS[kind]
    x, y, r = int(rng.integers(4, 20)), int(rng.integers(4, 12)), int(rng.integers(16, 26))
    if kind == "disc":
        pen.ellipse((x, y, x + r, y + r), fill=colour)
    elif kind == "square":
        pen.rectangle((x, y, x + r, y + r), fill=colour)
    else:
        for offset in range(int(rng.integers(0, 6)), size[0], 8):
            pen.line((offset, 0, offset, size[1]), fill=colour, width=3)
    noisy = np.asarray(image, dtype=np.int16) + rng.integers(-20, 21, (size[1], size[0], 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set: {train,test}/{disc,square,stripes}/, 8 pictures each, half JPEG and half PNG; not to be changed."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for kind in CLASSES:
            folder = root / split / kind
            folder.mkdir(parents=True)
            for number in range(8):
                suffix = "jpg" if number % 2 else "png"
                draw(kind, rng).save(folder / f"{kind}{number:02d}.{suffix}")
    return root


@pytest.fixture(scope="session")
def image_files(image_folder: Path) -> list[Path]:
    """The 48 files of `image_folder`, sorted."""
    return sorted(path for path in image_folder.rglob("*") if path.is_file())
