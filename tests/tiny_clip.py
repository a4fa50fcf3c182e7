"""A tiny CLIP with random weights, made in a moment."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

WORDS = [
    "a photo of a disc",
    "a photo of a square",
    "a drawing of blue stripes",
    "red green",
]


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
