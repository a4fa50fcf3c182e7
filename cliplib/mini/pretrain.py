"""Pretrain the embedded CLIP: images with words in, a Hugging Face checkpoint out.

    python -m cliplib.mini.pretrain --corpus DATA/pretrain --evaluation DATA --out cliplib/mini

Five losses. *contrastive*: image against caption [1]_; its weight halves whenever held-out pairs
stop improving. *features*: the class token predicts the pooled features of a frozen
EfficientNet-Lite0 [2]_. *dense*: each patch token predicts the same network's map at its own place.
*names*: image against prompts of ImageNet's class names, trained to that network's class
probabilities, so that its knowledge can be reached by words. *sentences*: texts lie where MiniLM
puts them. Most patches are dropped for most of the training [3]_; matrices of the transformer
blocks are trained by Muon [4]_. An interrupted run goes on from its last state in ``--work``.

.. [1] Radford et al., "Learning transferable visual models from natural language supervision",
   ICML 2021, section 2.3.
.. [2] Hinton et al., "Distilling the knowledge in a neural network", 2015, section 2.
.. [3] Li et al., "Scaling language-image pre-training via masking", CVPR 2023, section 3.
.. [4] Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from cliplib.mini import corpus
from cliplib.mini.corpus import Array, CorpusImage

LOSSES = {"contrastive": 0.5, "features": 1.0, "dense": 2.0, "names": 1.0, "sentences": 4.0}
NAMES_A_STEP = 320
WARM_UP, DECAY, WHOLE_IMAGES = 100, 0.3, 0.06  # steps; shares of the steps, at the end
VISION = {"hidden_size": 320, "intermediate_size": 1280, "num_hidden_layers": 6}
VISION |= {"num_attention_heads": 5, "image_size": corpus.SIZE}
VISION |= {"patch_size": corpus.SIZE // corpus.GRID}
TEXT = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 3}
TEXT |= {"num_attention_heads": 4, "max_position_embeddings": corpus.TOKENS}
log = logging.getLogger(__name__)


def new_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Make an untrained CLIP: 7.7 M parameters see, 3.4 M read, both end in 384 dimensions."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    special = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": eos}
    text = TEXT | special | {"vocab_size": len(tokenizer), "hidden_act": "gelu"}
    vision = VISION | {"hidden_act": "gelu"}
    config = CLIPConfig(vision_config=vision, text_config=text, projection_dim=384, **special)
    return CLIPModel(config)


class Words:
    """Every text of the training: its tokens, MiniLM's embedding, and which class it names."""

    def __init__(self, images: list[CorpusImage], work: Path) -> None:
        names, extra = corpus.imagenet_lists()
        groups = [[t.format(n) for n in some[:2] for t in corpus.TEMPLATES[:4]] for some in names]
        prompts = [prompt for group in groups for prompt in group]
        captions = sorted({caption for image in images for caption in image.captions})
        texts = list(dict.fromkeys(captions + prompts + extra))
        self.number = {text: i for i, text in enumerate(texts)}
        self.prompts = [[self.number[prompt] for prompt in group] for group in groups]
        self.extra = [self.number[text] for text in extra]
        self.tokenizer = corpus.train_tokenizer(captions * 2 + texts)
        self.tokens = self.tokenize(texts)
        self.sentences = torch.from_numpy(corpus.teach_text(texts, work))

    def tokenize(self, texts: list[str]) -> Tensor:
        """Turn texts into tokens (n, 24)."""
        options = {"padding": "max_length", "truncation": True, "max_length": corpus.TOKENS}
        return torch.tensor(self.tokenizer(texts, **options)["input_ids"])


class Batches:
    """Batches by step, functions of seed and step: a resumed run sees the same ones."""

    def __init__(self, images: list[CorpusImage], words: Words, args: argparse.Namespace) -> None:
        self.images, self.words, self.args = images, words, args
        self.pool, self.view, self.taught = ThreadPool(1), -1, {}

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Draw a batch: pixels, texts and the teachers' answers."""
        args, words = self.args, self.words
        epoch, at = divmod(step, len(self.images) // args.batch)
        if epoch % args.views != self.view:
            self.view = epoch % args.views
            self.taught = corpus.teach_vision(self.images, self.view, args.work)
        order = np.random.default_rng((args.seed, epoch)).permutation(len(self.images))
        rows = order[at * args.batch : (at + 1) * args.batch]
        rng = np.random.default_rng((args.seed, 1, step))
        logits = torch.from_numpy(self.taught["logits"][rows]).float()
        likely = logits.topk(2).indices.flatten().unique()
        others = torch.from_numpy(rng.permutation(logits.shape[1]))
        classes = torch.cat([likely, others[~torch.isin(others, likely)]])
        classes = classes[: max(NAMES_A_STEP, len(likely))]
        texts = [words.number[rng.choice(self.images[i].captions)] for i in rows]
        texts += [rng.choice(words.prompts[k]) for k in classes.tolist()]
        texts += rng.choice(words.extra, len(rows) // 8).tolist()
        tokens = words.tokens[texts]
        longest = int((tokens != words.tokenizer.eos_token_id).sum(1).max()) + 1
        return {
            "pixels": normalize(corpus.random_views(self.images, self.view, rows, self.pool)),
            "texts": torch.tensor(texts),
            "tokens": tokens[:, :longest],
            "sentences": words.sentences[texts].float(),
            "same": same_concept([self.images[i] for i in rows]),
            "maps": torch.from_numpy(self.taught["maps"][rows]).float() / corpus.MAP_LEVELS,
            "features": torch.from_numpy(self.taught["features"][rows]).float(),
            "classes": F.log_softmax(logits[:, classes], dim=-1),
        }


def normalize(views: Tensor) -> Tensor:
    """Turn uint8 (n, s, s, 3) into the pixel values that CLIP takes, (n, 3, s, s)."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return ((views.permute(0, 3, 1, 2).float() / 255 - mean) / std).contiguous()


def same_concept(images: list[CorpusImage]) -> Tensor:
    """Say which of n images count as positives of each other, bool (n, n)."""
    numbers = np.unique([image.concept for image in images], return_inverse=True)[1]
    return torch.from_numpy(numbers[:, None] == numbers)


def clip_loss(logits: Tensor, same: Tensor) -> Tensor:
    """Symmetric cross-entropy (Radford et al., figure 3) in which positives share the target."""
    target = same.float() / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class Student(nn.Module):
    """A CLIP with the two heads that only training needs."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.clip = clip
        self.to_features = nn.Linear(VISION["hidden_size"], corpus.COMPONENTS)
        self.to_map = nn.Linear(VISION["hidden_size"], corpus.MAP_COMPONENTS)

    def encode_image(self, pixels: Tensor, kept: Tensor | None = None) -> Tensor:
        """Encode the patches `kept`, (n, m), or all: normalised tokens (n, 1 + m, d)."""
        tower = self.clip.vision_model
        x = tower.embeddings(pixels)
        if kept is not None:
            patches = x[:, 1:].gather(1, kept[..., None].expand(-1, -1, x.shape[2]))
            x = torch.cat([x[:, :1], patches], 1)
        x = tower.encoder(inputs_embeds=tower.pre_layrnorm(x)).last_hidden_state
        return tower.post_layernorm(x)

    def project(self, tokens: Tensor) -> Tensor:
        """Project the class tokens to the space shared with texts, unit length."""
        return F.normalize(self.clip.visual_projection(tokens[:, 0]).float(), dim=-1)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Encode texts, unit length."""
        found = self.clip.get_text_features(input_ids=tokens).pooler_output
        return F.normalize(found.float(), dim=-1)

    def losses(self, batch: dict[str, Tensor], keep: float) -> dict[str, Tensor]:
        """Compute all five losses, unweighted, with the share `keep` of the patches."""
        n, places, maps = len(batch["pixels"]), corpus.GRID**2, batch["maps"]
        kept = torch.rand(n, places).argsort(1)[:, : round(keep * places)]
        tokens = self.encode_image(batch["pixels"], kept if keep < 1 else None)
        if keep < 1:
            maps = maps.gather(1, kept[..., None].expand(-1, -1, maps.shape[2]))
        image, text = self.project(tokens), self.encode_text(batch["tokens"])
        names = text[n : n + batch["classes"].shape[1]]
        scale = self.clip.logit_scale.exp().clamp(max=100)
        same = batch["same"] | (batch["texts"][:n, None] == batch["texts"][:n])
        guess = self.to_features(tokens[:, 0]).float()
        close = F.normalize(guess, dim=-1) @ F.normalize(batch["features"], dim=-1).T / 0.1
        nearest = F.cross_entropy(close, torch.arange(n))
        named = F.log_softmax(scale * image @ names.T, dim=-1)
        return {
            "contrastive": clip_loss(scale * image @ text[:n].T, same),
            "features": 2 * F.smooth_l1_loss(guess, batch["features"]) + 0.5 * nearest,
            "dense": F.smooth_l1_loss(self.to_map(tokens[:, 1:]).float(), maps),
            "names": F.kl_div(named, batch["classes"], log_target=True, reduction="batchmean"),
            "sentences": 1 - (text * batch["sentences"]).sum(-1).mean(),
        }


class HeldOut:
    """A third of the held-out pairs: what the contrastive loss is worth on unseen images."""

    def __init__(self, images: list[CorpusImage], words: Words) -> None:
        pairs, side = [image for image in images if image.held_out][::3], corpus.SIZE
        views = [Image.open(io.BytesIO(pair.data)).convert("RGB") for pair in pairs]
        small = [view.resize((side, side), Image.Resampling.BICUBIC) for view in views]
        self.pixels = normalize(torch.from_numpy(np.stack([np.asarray(view) for view in small])))
        self.tokens = words.tokenize([pair.captions[0] for pair in pairs])
        self.same = same_concept(pairs)

    @torch.inference_mode()
    def loss(self, student: Student) -> float:
        """Compute the contrastive loss of these pairs."""
        image = torch.cat([student.project(student.encode_image(p)) for p in self.pixels.split(64)])
        logits = student.clip.logit_scale.exp() * image @ student.encode_text(self.tokens).T
        return clip_loss(logits, self.same).item()


def optimizers(student: Student) -> list[torch.optim.Optimizer]:
    """Take Muon for the matrices of the transformer blocks, AdamW for everything else."""
    towers = (student.clip.vision_model, student.clip.text_model)
    blocks = [p for tower in towers for p in tower.encoder.parameters()]
    matrices = [p for p in blocks if p.ndim == 2]
    known = {id(p) for p in matrices}
    others = [p for p in student.parameters() if id(p) not in known]
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
    ]
    muon = torch.optim.Muon(matrices, lr=2e-3, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98))]


def lr_scale(step: int, steps: int) -> float:
    """Warm up, stay, and fall to zero at the end: until the fall begins, `steps` may change."""
    return min(1.0, (step + 1) / WARM_UP, (steps - step) / (DECAY * steps))


def train(args: argparse.Namespace) -> None:
    """Train, or go on, and write the checkpoint with its log."""
    args.work.mkdir(parents=True, exist_ok=True)
    everything = corpus.read_corpus(args.corpus)
    near = corpus.near_duplicates(everything, args.evaluation)
    images = [im for im in everything if not (im.held_out or im.id in near)]
    words = Words(images, args.work)
    batches, held_out = Batches(images, words, args), HeldOut(everything, words)
    torch.manual_seed(args.seed)
    student = Student(new_clip(words.tokenizer))
    opts = optimizers(student)
    base = [[group["lr"] for group in opt.param_groups] for opt in opts]
    state: dict[str, Any] = {"step": 0, "seconds": 0.0, "history": []}
    state |= {"weight": 1.0, "best": 1e9, "worse": 0}  # of the contrastive loss
    file = args.work / f"{args.name}.pt"
    if file.exists():
        state = torch.load(file, weights_only=True)
        student.load_state_dict(state.pop("student"))
        for opt, saved in zip(opts, state.pop("opts"), strict=True):
            opt.load_state_dict(saved)
        log.info("Resuming at step %d.", state["step"])
    bfloat16 = torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16)
    bar = tqdm(total=args.steps, initial=state["step"], mininterval=30)
    ahead, start = ThreadPoolExecutor(1), time.perf_counter()
    following = ahead.submit(batches, state["step"])
    for step in range(state["step"], args.steps):
        batch, following = following.result(), ahead.submit(batches, step + 1)
        torch.manual_seed(args.seed * 1_000_003 + step)  # a resumed run drops the same patches
        for opt, rates in zip(opts, base, strict=True):
            for group, rate in zip(opt.param_groups, rates, strict=True):
                group["lr"] = rate * lr_scale(step, args.steps)
        with bfloat16:
            keep = 1.0 if step >= (1 - WHOLE_IMAGES) * args.steps else args.keep
            losses = student.train().losses(batch, keep)
        weights = LOSSES | {"contrastive": LOSSES["contrastive"] * state["weight"]}
        sum(weights[name] * losses[name] for name in args.losses).backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        state["step"] = step + 1
        bar.update()
        if (step + 1) % 25 == 0:
            row = {name: round(loss.item(), 4) for name, loss in losses.items()}
            state["history"].append({"step": step + 1} | row)
            bar.set_postfix(row)
        if (step + 1) % args.check_every == 0 or step + 1 == args.steps:
            state["seconds"] += time.perf_counter() - start
            with bfloat16:
                watch_contrastive(state, held_out.loss(student.eval()))
            saved = {"student": student.state_dict(), "opts": [o.state_dict() for o in opts]}
            torch.save(state | saved, file.with_suffix(".part"))
            file.with_suffix(".part").rename(file)
            start = time.perf_counter()
    export(student.clip, words.tokenizer, args.out)
    facts = {name: getattr(args, name) for name in ("steps", "batch", "views", "losses", "seed")}
    facts |= {"samples": args.steps * args.batch, "seconds": round(state["seconds"])}
    facts |= {"images": len(images), "held_out": sum(image.held_out for image in everything)}
    facts |= {"dropped_as_near_duplicates": len(near)}
    text = json.dumps({"facts": facts, "history": state["history"]}, indent=1)
    (args.out / "training.json").write_text(text + "\n")


def watch_contrastive(state: dict[str, Any], loss: float) -> None:
    """Halve the contrastive weight when held-out pairs did not improve twice in a row."""
    state["worse"] = 0 if loss < state["best"] else state["worse"] + 1
    state["best"] = min(state["best"], loss)
    if state["worse"] == 2:
        state["weight"], state["worse"] = state["weight"] / 2, 0
    found = {"step": state["step"], "held_out": round(loss, 4), "weight": state["weight"]}
    state["history"].append(found)
    log.info("%s", found)


def export(clip: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write a float16 checkpoint that transformers loads with nothing of ours."""
    copy = CLIPModel(clip.config)
    copy.load_state_dict(clip.state_dict())
    copy.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    square = {"height": corpus.SIZE, "width": corpus.SIZE}
    processor = CLIPImageProcessorPil(size={"shortest_edge": corpus.SIZE}, crop_size=square)
    processor.save_pretrained(folder)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--corpus", type=Path, required=True, help="folder of Parquet files: images and words")
    add("--evaluation", type=Path, required=True, help="data folder whose copies are left out")
    add("--out", type=Path, required=True, help="where the checkpoint goes")
    add("--work", type=Path, default=Path("build/pretrain"), help="teachers' answers and state")
    add("--name", default="main", help="of the state, so that runs can share a work folder")
    add("--steps", type=int, default=6000)
    add("--batch", type=int, default=256)
    add("--views", type=int, default=12, help="random views of each image, in turn by epoch")
    add("--keep", type=float, default=0.38, help="share of the patches seen until near the end")
    add("--losses", nargs="+", default=list(LOSSES), choices=list(LOSSES))
    add("--check-every", type=int, default=200)
    add("--bfloat16", action=argparse.BooleanOptionalAction, default=True)
    add("--seed", type=int, default=0)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
