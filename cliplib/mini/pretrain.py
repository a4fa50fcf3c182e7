"""Pretrain the embedded CLIP: images with words in, a Hugging Face checkpoint out.

    python -m cliplib.mini.pretrain --corpus DATA/pretrain --evaluation DATA --out cliplib/mini

Five losses. *contrastive*: image against caption (Radford et al., ICML 2021, section 2.3); its
weight halves whenever held-out pairs stop improving. *features*: the class token predicts the
pooled features of a frozen EfficientNet-Lite0 (Hinton et al. 2015). *dense*: each patch token
predicts that network's map at its own place. *names*: image against prompts of ImageNet's class
names, trained to that network's class probabilities, so that words reach what it knows.
*sentences*: texts lie where MiniLM puts them. Most patches are dropped for most of the training (Li
et al., CVPR 2023). Muon (Jordan et al. 2024) trains the matrices of the blocks. An interrupted run
goes on from its last state in ``--work``. Without AVX-512 a step takes several times as long.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from cliplib.images import load_image
from cliplib.mini import corpus
from cliplib.mini.corpus import PATCH, SIZE, TOKENS, CorpusImage

LOSSES = {
    "contrastive": 0.5,
    "features": 1.0,
    "dense": 2.0,
    "names": 2.0,
    "sentences": 4.0,
}
RATES = (1.2e-3, 6e-4)  # of Muon and of AdamW
WARM_UP, WHOLE_IMAGES = 50, 0.06  # steps; share of the steps, at the end
KEEP, NAMES_A_STEP = (
    0.38,
    320,
)  # share of the patches until near the end; classes of ImageNet
VISION: dict[str, Any] = {
    "hidden_size": 320,
    "intermediate_size": 1280,
    "num_hidden_layers": 6,
}
VISION |= {
    "num_attention_heads": 5,
    "image_size": SIZE,
    "patch_size": PATCH,
    "hidden_act": "gelu",
}
TEXT: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 3,
}
TEXT |= {
    "num_attention_heads": 4,
    "max_position_embeddings": TOKENS,
    "hidden_act": "gelu",
}
TOKENIZE: dict[str, Any] = {"padding": True, "truncation": True, "return_tensors": "pt"}


class Batches:
    """Batches by step, functions of seed and step: a resumed run sees the same ones."""

    def __init__(self, images: list[CorpusImage], args: argparse.Namespace) -> None:
        self.images, self.args, self.view = images, args, -1
        self.prompts, words = corpus.imagenet_words()
        captions = sorted({caption for image in images for caption in image.captions})
        prompts = [prompt for group in self.prompts for prompt in group]
        texts = list(dict.fromkeys([*captions, *prompts, *words]))
        self.number = {text: i for i, text in enumerate(texts)}
        self.words = [self.number[word] for word in words]
        self.tokenizer = CLIPTokenizer.from_pretrained(Path(__file__).parent)
        self.tokens = self.tokenizer(texts, **TOKENIZE)["input_ids"]
        self.sentences = torch.from_numpy(corpus.teach_text(texts, args.work))

    def prepare(self, step: int) -> None:
        """Ask the teacher about the view of a step, if it is a new one."""
        view = step // (len(self.images) // self.args.batch) % self.args.views
        if view != self.view:
            self.view = view
            self.taught = corpus.teach_vision(self.images, view, self.args.work)

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Draw a batch: views, texts and the teachers' answers."""
        n, images, args = self.args.batch, self.images, self.args
        epoch, at = divmod(step, len(images) // n)
        epoch_rows = np.random.default_rng((args.seed, epoch)).permutation(len(images))
        rows = epoch_rows[at * n : (at + 1) * n]
        rng = np.random.default_rng((args.seed, 1, step))
        taught = {
            name: torch.from_numpy(a[rows]).float() for name, a in self.taught.items()
        }
        logits = taught.pop("logits")
        likely = logits.topk(2).indices.unique().tolist()
        order = dict.fromkeys([*likely, *rng.permutation(logits.shape[1]).tolist()])
        classes = list(order)[: max(NAMES_A_STEP, len(likely))]
        texts = [self.number[rng.choice(images[i].captions)] for i in rows]
        texts += [self.number[rng.choice(self.prompts[k])] for k in classes]
        texts += rng.choice(self.words, n // 8).tolist()
        tokens = self.tokens[texts]
        longest = int((tokens != self.tokenizer.eos_token_id).sum(1).max()) + 1
        return taught | {
            "views": corpus.random_views(images, self.view, rows),
            "tokens": tokens[:, :longest],
            "sentences": self.sentences[texts].float(),
            "same": equal([images[i].concept for i in rows]) | equal(texts[:n]),
            "classes": F.log_softmax(logits[:, classes], dim=-1),
        }


def equal(values: list[Any]) -> Tensor:
    """Say which of n values are equal, bool (n, n)."""
    return torch.from_numpy(np.array(values)[:, None] == np.array(values))


def clip_loss(logits: Tensor, same: Tensor) -> Tensor:
    """Symmetric cross-entropy (Radford et al., figure 3) in which positives share the target."""
    target = same.float() / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class Student(nn.Module):
    """A new CLIP (7.7 M parameters see, 3.4 M read) with the two heads that only training needs."""

    def __init__(self, tokenizer: CLIPTokenizer, start: Path | None = None) -> None:
        super().__init__()
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        special = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": eos}
        text = TEXT | special | {"vocab_size": len(tokenizer)}
        config = CLIPConfig(
            vision_config=VISION, text_config=text, projection_dim=384, **special
        )
        self.clip = CLIPModel(config)
        if start:
            old = CLIPModel.from_pretrained(start, dtype=torch.float32)
            weights, places = old.state_dict(), old.vision_model.embeddings
            shape = torch.empty(1, 1 + (SIZE // PATCH) ** 2, VISION["hidden_size"])
            fitted = places.interpolate_pos_encoding(shape, SIZE, SIZE)[0]
            weights["vision_model.embeddings.position_embedding.weight"] = fitted
            self.clip.load_state_dict(weights)
        self.to_features = nn.Linear(VISION["hidden_size"], corpus.COMPONENTS)
        self.to_map = nn.Linear(VISION["hidden_size"], corpus.MAP_COMPONENTS)

    def encode_image(
        self, views: Tensor, kept: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode the patches `kept` or all: tokens (n, 1 + m, d), and projected images (n, 384)."""
        mean, std = (
            torch.tensor(v).view(3, 1, 1) for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
        )
        pixels = (views.permute(0, 3, 1, 2).float() / 255 - mean) / std
        tower = self.clip.vision_model
        x = tower.embeddings(pixels.contiguous())
        if kept is not None:
            x = torch.cat([x[:, :1], x[:, 1:].take_along_dim(kept, 1)], 1)
        x = tower.encoder(inputs_embeds=tower.pre_layrnorm(x)).last_hidden_state
        tokens = tower.post_layernorm(x)
        return tokens, F.normalize(
            self.clip.visual_projection(tokens[:, 0]).float(), dim=-1
        )

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Encode texts, (n, 384) of unit length."""
        return F.normalize(
            self.clip.get_text_features(tokens).pooler_output.float(), dim=-1
        )

    @torch.autocast("cpu", torch.bfloat16)
    def losses(self, batch: dict[str, Tensor], keep: float) -> dict[str, Tensor]:
        """Compute all five losses, unweighted, with the share `keep` of the patches."""
        maps, kept = batch["maps"] / corpus.MAP_LEVELS, None
        n, places = maps.shape[:2]
        if keep < 1:
            kept = torch.rand(n, places).argsort(1)[:, : round(keep * places), None]
            maps = maps.take_along_dim(kept, 1)
        tokens, image = self.encode_image(batch["views"], kept)
        text = self.encode_text(batch["tokens"])
        names = text[n : n + batch["classes"].shape[1]]
        scale = self.clip.logit_scale.exp().clamp(max=100)
        guess = self.to_features(tokens[:, 0]).float()
        close = (
            F.normalize(guess, dim=-1) @ F.normalize(batch["features"], dim=-1).T / 0.1
        )
        nearest = F.cross_entropy(close, torch.arange(n))
        named = F.log_softmax(scale * image @ names.T, dim=-1)
        return {
            "contrastive": clip_loss(scale * image @ text[:n].T, batch["same"]),
            "features": 2 * F.smooth_l1_loss(guess, batch["features"]) + 0.5 * nearest,
            "dense": F.smooth_l1_loss(self.to_map(tokens[:, 1:]).float(), maps),
            "names": F.kl_div(
                named, batch["classes"], log_target=True, reduction="batchmean"
            ),
            "sentences": 1 - (text * batch["sentences"]).sum(-1).mean(),
        }


@torch.inference_mode()
@torch.autocast("cpu", torch.bfloat16)
def watch_held_out(
    student: Student, pairs: list[CorpusImage], texts: Tensor, state: Any
) -> None:
    """Halve the contrastive weight when held-out pairs did not improve twice in a row."""
    small = [np.asarray(load_image(pair.data).resize((SIZE, SIZE))) for pair in pairs]
    views = torch.from_numpy(np.stack(small)).split(64)
    image = torch.cat([student.eval().encode_image(some)[1] for some in views])
    logits = student.clip.logit_scale.exp() * image @ student.encode_text(texts).T
    loss = clip_loss(logits, equal([pair.concept for pair in pairs])).item()
    state["worse"] = 0 if loss < state["best"] else state["worse"] + 1
    state["best"] = min(state["best"], loss)
    if state["worse"] == 2:
        state["weight"], state["worse"] = state["weight"] / 2, 0
    found = {
        "step": state["step"],
        "held_out": round(loss, 4),
        "weight": state["weight"],
    }
    state["history"].append(found)
    tqdm.write(str(found))


def optimizers(student: Student) -> list[torch.optim.Optimizer]:
    """Take Muon for the matrices of the transformer blocks, AdamW for everything else."""
    towers = (student.clip.vision_model, student.clip.text_model)
    matrices = [
        p for tower in towers for p in tower.encoder.parameters() if p.ndim == 2
    ]
    heads = [*student.to_features.parameters(), *student.to_map.parameters()]
    others = [p for p in student.parameters() if p not in {*matrices, *heads}]
    decayed = {"params": [p for p in others if p.ndim > 1], "weight_decay": 0.05}
    plain = {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0}
    fast = {
        "params": heads,
        "weight_decay": 0.0,
        "faster": 10,
    }  # they always begin anew
    muon = torch.optim.Muon(matrices, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW([decayed, plain, fast], betas=(0.9, 0.98))]


def lr_scale(step: int, args: argparse.Namespace) -> float:
    """Warm up, stay, and fall to zero over the last `decay` of the steps."""
    return min(
        1.0, (step + 1) / WARM_UP, (args.steps - step) / (args.decay * args.steps)
    )


def train(args: argparse.Namespace) -> None:
    """Train, or go on, and write the checkpoint with its log."""
    args.work.mkdir(parents=True, exist_ok=True)
    everything = corpus.read_corpus(args.corpus)
    near = corpus.near_duplicates(everything, args.evaluation, args.work)
    images = [im for im in everything if not (im.held_out or im.id in near)]
    held_out = [im for im in everything if im.held_out]
    batches, pairs = Batches(images, args), held_out[::3]
    captions = batches.tokenizer([pair.captions[0] for pair in pairs], **TOKENIZE)[
        "input_ids"
    ]
    torch.manual_seed(args.seed)
    student = Student(batches.tokenizer, args.start)
    opts = optimizers(student)
    state = dict[str, Any](
        step=0, seconds=0.0, history=[], weight=1.0, best=1e9, worse=0
    )
    file, part = args.work / f"{args.name}.pt", args.work / f"{args.name}.part"
    if file.exists():
        state = torch.load(file, weights_only=True)
        student.load_state_dict(state.pop("student"))
        for opt, saved in zip(opts, state.pop("opts"), strict=True):
            opt.load_state_dict(saved)
    # A second team of OpenMP threads would keep the first from spinning, and halve its speed.
    ahead = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))
    batches.prepare(state["step"])
    following = ahead.submit(batches, state["step"])
    for step in tqdm(range(state["step"], args.steps), mininterval=30):
        start = time.perf_counter()
        batch = following.result()
        batches.prepare(step + 1)
        following = ahead.submit(batches, step + 1)
        torch.manual_seed(
            args.seed * 1_000_003 + step
        )  # a resumed run drops the same patches
        keep = 1.0 if step >= (1 - WHOLE_IMAGES) * args.steps else KEEP
        losses = student.train().losses(batch, keep)
        weights = LOSSES | {"contrastive": LOSSES["contrastive"] * state["weight"]}
        sum(weights[name] * losses[name] for name in args.losses).backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        for opt, rate in zip(opts, RATES, strict=True):
            for group in opt.param_groups:
                group["lr"] = rate * lr_scale(step, args) * group.get("faster", 1)
            opt.step()
            opt.zero_grad()
        state |= {
            "step": step + 1,
            "seconds": state["seconds"] + time.perf_counter() - start,
        }
        if state["step"] % 25 == 0:
            row = {name: round(loss.item(), 4) for name, loss in losses.items()}
            state["history"].append({"step": state["step"]} | row)
        if state["step"] % args.check_every == 0 or state["step"] == args.steps:
            watch_held_out(student, pairs, captions, state)
            saved = {
                "student": student.state_dict(),
                "opts": [opt.state_dict() for opt in opts],
            }
            torch.save(state | saved, part)
            part.rename(file)
    student.clip.half().save_pretrained(args.out)
    batches.tokenizer.save_pretrained(args.out)
    squash: dict[str, Any] = {
        "size": {"height": SIZE, "width": SIZE},
        "do_center_crop": False,
    }
    CLIPImageProcessorPil(**squash).save_pretrained(args.out)
    facts = {
        name: getattr(args, name)
        for name in ("steps", "batch", "views", "losses", "seed")
    }
    facts |= {"samples": args.steps * args.batch, "seconds": round(state["seconds"])}
    facts |= {
        "images": len(images),
        "held_out": len(held_out),
        "dropped_duplicates": len(near),
    }
    text = json.dumps({"facts": facts, "history": state["history"]}, indent=1)
    (args.out / "training.json").write_text(text + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("corpus", "evaluation", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    numbers = {"steps": 6000, "batch": 256, "views": 12, "check-every": 200, "seed": 0}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--work", type=Path, default=Path("build/pretrain"))
    parser.add_argument(
        "--decay", type=float, default=0.3, help="share of the steps; 1 to go on"
    )
    parser.add_argument(
        "--start", type=Path, help="a checkpoint of the same shape to go on from"
    )
    parser.add_argument(
        "--name", default="main", help="of the state: runs may share a work folder"
    )
    parser.add_argument(
        "--losses", nargs="+", default=list(LOSSES), choices=list(LOSSES)
    )
    train(parser.parse_args())
