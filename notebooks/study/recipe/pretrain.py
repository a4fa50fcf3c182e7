"""Pretrain the embedded CLIP: images with words in, a Hugging Face checkpoint out.

    python -m study.recipe.pretrain --corpus FOLDER --evaluation FOLDER \
        --out FOLDER

Five losses. *contrastive*: image against caption (Radford et al., ICML 2021, section
2.3); its weight halves whenever held-out pairs stop improving. *features*: the class
token predicts the pooled features of a frozen EfficientNet-Lite0 (Hinton et al. 2015).
*dense*: each patch token predicts that network's map at its own place. *names*: image
against prompts of ImageNet's class names, trained to that network's class
probabilities, so that words reach what it knows. *sentences*: texts lie where MiniLM
puts them. Most patches are dropped for most of the training (Li et al., CVPR 2023).
Muon (Jordan et al. 2024) trains the matrices of the blocks. An interrupted run goes on
from its last state in ``--work``. Without AVX-512 a step takes several times as long.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from cliplib.data.arrays import Ints
from cliplib.data.image import load_image
from cliplib.encoders.checkpoint import find_checkpoint
from study.recipe import corpus
from study.recipe.corpus import (
    HELD_OUT,
    PATCH,
    SIZE,
    TOKENS,
    CorpusImage,
    ImageTargets,
    Teachers,
)

LOSS_WEIGHTS = {
    "contrastive": 0.5,
    "features": 1.0,
    "dense": 2.0,
    "names": 2.0,
    "sentences": 4.0,
}
VISION: Mapping[str, Any] = {
    "hidden_size": 320,
    "intermediate_size": 1280,
    "num_hidden_layers": 6,
    "num_attention_heads": 5,
    "image_size": SIZE,
    "patch_size": PATCH,
    "hidden_act": "gelu",
}
TEXT: Mapping[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": TOKENS,
    "hidden_act": "gelu",
}
PROJECTION = 384  # as wide as MiniLM's embeddings
FULL_RATES = (1.2e-3, 6e-4)  # of Muon and of AdamW
HEAD_SPEED = 10  # times the rate of AdamW: heads always begin anew
WEIGHT_DECAY = 0.05
WARM_UP = 50  # steps
KEPT_PATCHES = 0.38  # share of the patches until near the end
WHOLE_IMAGES = 0.06  # share of the steps, at the end, that see all patches
NAMES_A_STEP = 320  # classes of ImageNet
LOG_EVERY = 25  # steps

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Options:
    """What a run reads, writes and does.

    Attributes
    ----------
    corpus, evaluation, out, work
        Folders: of the corpus; of images near-duplicates of which are not trained on;
        of the checkpoint; and of what is kept between runs, which several may share.
    start
        A checkpoint of the same shape to go on from.
    name
        Of the state in `work`.
    steps, batch, seed
        How many steps, of how many images each, drawn from which seed.
    views
        How many views of each image there are.
    check_every
        Steps between looks at held-out pairs, after which the state is kept.
    decay
        Share of the steps, at the end, over which the rate falls; 1 to go on.
    losses
        Which of `LOSS_WEIGHTS` count.
    held_out
        How many images of each file of the corpus are not trained on.
    vision, text
        Configurations of the towers.
    """

    corpus: Path
    evaluation: Path
    out: Path
    work: Path = Path("build/pretrain")
    start: Path | None = None
    name: str = "main"
    steps: int = 6000
    batch: int = 256
    views: int = 12
    check_every: int = 200
    seed: int = 0
    decay: float = 0.3
    losses: Sequence[str] = tuple(LOSS_WEIGHTS)
    held_out: Mapping[str, int] = field(default_factory=lambda: HELD_OUT)
    vision: Mapping[str, Any] = field(default_factory=lambda: VISION)
    text: Mapping[str, Any] = field(default_factory=lambda: TEXT)


@dataclass
class Progress:
    """Where a run is: what is kept beside the weights when it is interrupted."""

    step: int = 0  # the next one
    seconds: float = 0.0  # of training
    history: list[dict[str, float]] = field(default_factory=list)  # losses by step
    weight: float = 1.0  # of the contrastive loss, times that in LOSS_WEIGHTS
    best: float = 1e9  # contrastive loss of held-out pairs so far
    worse: int = 0  # times in a row that it was missed


def load_tokenizer() -> CLIPTokenizer:
    """Return the embedded model's tokenizer."""
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(find_checkpoint("mini"))
    return tokenizer


def tokenize(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """Return token ids (n, m) of n texts, cut at `TOKENS` and padded to the longest."""
    tokens: Tensor = tokenizer(
        list(texts), padding=True, truncation=True, return_tensors="pt"
    )["input_ids"]
    return tokens


class Texts:
    """All texts that are trained on, each once, known by their rows.

    Attributes
    ----------
    prompts_by_class
        A list of prompts for each class of ImageNet, by class number.
    tokens
        Token ids of all texts, (texts, m), padded with the end token.
    embeddings
        The text teacher's embeddings of all texts, (texts, 384).
    """

    def __init__(
        self,
        images: Sequence[CorpusImage],
        tokenizer: CLIPTokenizer,
        teachers: Teachers,
    ) -> None:
        self.prompts_by_class, words = teachers.prompts_and_words()
        captions = sorted({caption for image in images for caption in image.captions})
        prompts = [prompt for of_class in self.prompts_by_class for prompt in of_class]
        texts = list(dict.fromkeys([*captions, *prompts, *words]))
        self._row_of_text = {text: row for row, text in enumerate(texts)}
        self._word_rows = [self._row_of_text[word] for word in words]
        self._end_of_text = tokenizer.eos_token_id
        self.tokens = tokenize(tokenizer, texts)
        self.embeddings = torch.from_numpy(teachers.text_embeddings(texts))

    def draw_from_each(
        self, lists: Sequence[Sequence[str]], rng: np.random.Generator
    ) -> list[int]:
        """Draw a text from each list; return the rows of the texts."""
        return [self._row_of_text[rng.choice(texts)] for texts in lists]

    def draw_words(self, n: int, rng: np.random.Generator) -> list[int]:
        """Draw n of the names and definitions of WordNet; return the texts' rows."""
        return [int(row) for row in rng.choice(self._word_rows, n)]

    def trimmed_tokens(self, rows: list[int]) -> Tensor:
        """Return token ids (n, m) of n texts, cut where all of them are padding."""
        tokens = self.tokens[rows]
        # Padding is the end token, too: the first one in a row is its end.
        longest = int((tokens != self._end_of_text).sum(1).max()) + 1
        return tokens[:, :longest]


class Batches:
    """Draws the batch of each step: call `prepare` with the step, then the object.

    A batch depends on seed and step alone, so that a resumed run sees the same ones.
    """

    def __init__(
        self,
        images: Sequence[CorpusImage],
        texts: Texts,
        teachers: Teachers,
        options: Options,
    ) -> None:
        self.images = images
        self.texts = texts
        self.teachers = teachers
        self.options = options
        # The vision teacher's outputs on view number `view`; before `prepare`, on none.
        self.targets: ImageTargets | None = None
        self.view = -1

    @property
    def steps_an_epoch(self) -> int:
        """How many whole batches the images make."""
        return len(self.images) // self.options.batch

    def prepare(self, step: int) -> None:
        """Load into `targets` the vision teacher's outputs on the view of a step.

        All steps of an epoch show the same view of the images, the next epoch the next.
        """
        epoch = step // self.steps_an_epoch
        view = epoch % self.options.views
        if view != self.view:
            self.view = view
            self.targets = self.teachers.image_targets(self.images, view)

    def __call__(self, step: int) -> Batch:
        """Draw the batch of a step: n images, and t = n + k + n / 8 texts.

        views: the images, uint8 (n, 224, 224, 3)
        maps, features: `ImageTargets` of them, (n, 196, 32) and (n, 384)
        tokens: ids (t, m) of a caption of each image, then a prompt of each of k
        classes of ImageNet, then words
        sentences: the text teacher's embeddings of these texts, (t, 384)
        same: bool (n, n), pairs of images that are positives, by concept or caption
        classes: the vision teacher's log-probabilities of the k classes, (n, k)
        """
        assert self.targets is not None, "prepare() comes first"
        image_rows = self._image_rows(step)
        images = [self.images[row] for row in image_rows]
        # The 1 makes this another random stream than that of the images' order.
        rng = np.random.default_rng((self.options.seed, 1, step))
        logits = torch.from_numpy(self.targets.logits[image_rows]).float()
        named_classes = _draw_classes(logits, rng)
        texts = self.texts
        captions = [image.captions for image in images]
        caption_rows = texts.draw_from_each(captions, rng)
        prompts = [texts.prompts_by_class[label] for label in named_classes]
        prompt_rows = texts.draw_from_each(prompts, rng)
        word_rows = texts.draw_words(self.options.batch // 8, rng)
        text_rows = caption_rows + prompt_rows + word_rows
        concepts = [image.concept for image in images]
        return {
            "maps": torch.from_numpy(self.targets.maps[image_rows]).float(),
            "features": torch.from_numpy(self.targets.features[image_rows]).float(),
            "views": corpus.random_views(self.images, self.view, image_rows),
            "tokens": texts.trimmed_tokens(text_rows),
            "sentences": texts.embeddings[text_rows].float(),
            "same": which_are_equal(concepts) | which_are_equal(caption_rows),
            "classes": F.log_softmax(logits[:, named_classes], dim=-1),
        }

    def _image_rows(self, step: int) -> Ints:
        """Return the rows of the images of a step, in an order drawn for each epoch."""
        epoch, step_of_epoch = divmod(step, self.steps_an_epoch)
        rng = np.random.default_rng((self.options.seed, epoch))
        order = rng.permutation(len(self.images))
        start = step_of_epoch * self.options.batch
        return order[start : start + self.options.batch]


def _draw_classes(logits: Tensor, rng: np.random.Generator) -> list[int]:
    """Draw the classes of ImageNet with whose names n images are compared, each once.

    They are the two likeliest of each image, by `logits` (n, 1000), and random others
    up to `NAMES_A_STEP` in all; only the likeliest, if these are as many or more.
    """
    likely = np.unique(logits.topk(2).indices.numpy()).tolist()
    shuffled = rng.permutation(logits.shape[1]).tolist()
    likely_first = list(dict.fromkeys([*likely, *shuffled]))  # each class once
    return likely_first[: max(NAMES_A_STEP, len(likely))]


def which_are_equal(values: Sequence[Any]) -> Tensor:
    """Return which pairs of n values are equal, bool (n, n)."""
    array = np.array(values)
    return torch.from_numpy(array[:, None] == array)


def clip_loss(logits: Tensor, same: Tensor) -> Tensor:
    """Return the symmetric cross-entropy (Radford et al., figure 3), in nats.

    `logits` (n, n) are of images as rows and captions as columns. Right answers are all
    that are `same`, bool (n, n) and symmetric; those of a row have equal weight.
    """
    target = same.float() / same.sum(1, keepdim=True)  # rows have sums of 1
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def feature_loss(guess: Tensor, features: Tensor) -> Tensor:
    """Return the loss of predictions, `guess` (n, d), of the teacher's features (n, d).

    It is twice the smooth L1 distance and half a cross-entropy over the n images: by
    its cosine, each prediction has to be nearest to the features of its own image.
    """
    cosines = F.normalize(guess, dim=-1) @ F.normalize(features, dim=-1).T
    own_image = torch.arange(len(guess))
    contrast = F.cross_entropy(cosines / 0.1, own_image)  # temperature 0.1
    return 2 * F.smooth_l1_loss(guess, features) + 0.5 * contrast


def new_clip(
    tokenizer: CLIPTokenizer, vision: Mapping[str, Any], text: Mapping[str, Any]
) -> CLIPModel:
    """Return a CLIP with random weights, its towers configured as `vision` and `text`.

    With `VISION` and `TEXT`, the towers have 7.7 M and 3.4 M parameters.
    """
    special = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,  # CLIP pads with the end token
    }
    config = CLIPConfig(
        vision_config=dict(vision),
        text_config={**text, **special, "vocab_size": len(tokenizer)},
        projection_dim=PROJECTION,
        **special,
    )
    return CLIPModel(config)


def load_start(clip: CLIPModel, folder: Path) -> None:
    """Replace the weights of `clip` by those of a checkpoint of the same architecture.

    If it was made for images of another size, its position embeddings are interpolated.
    """
    old: Any = CLIPModel.from_pretrained(folder, dtype=torch.float32)
    config: Any = clip.config.vision_config
    side = config.image_size
    patches = (side // config.patch_size) ** 2
    # transformers reads only the shape of the tokens, and returns (1, 1 + patches, d).
    tokens = torch.empty(1, 1 + patches, config.hidden_size)
    (positions,) = old.vision_model.embeddings.interpolate_pos_encoding(
        tokens, side, side
    )
    weights = old.state_dict()
    weights["vision_model.embeddings.position_embedding.weight"] = positions
    clip.load_state_dict(weights)


class Student(nn.Module):
    """A CLIP with two heads, which predict the vision teacher's features and map.

    Only training needs them.
    """

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.clip: Any = clip  # whose parts have no types
        config: Any = clip.config.vision_config
        width = config.hidden_size
        self.to_features = nn.Linear(width, corpus.COMPONENTS)
        self.to_map = nn.Linear(width, corpus.MAP_COMPONENTS)

    def image_tokens(self, views: Tensor, kept: Tensor | None = None) -> Tensor:
        """Encode n RGB views, uint8 (n, s, s, 3), as tokens (n, 1 + m, d).

        The first token is the class token; the others are of the m patches that are
        seen. `kept`, (n, m, 1), has their numbers in each image; by default all are.
        """
        mean = torch.tensor(OPENAI_CLIP_MEAN).view(3, 1, 1)
        std = torch.tensor(OPENAI_CLIP_STD).view(3, 1, 1)
        pixels = (views.permute(0, 3, 1, 2).float() / 255 - mean) / std
        tower = self.clip.vision_model
        embedded = tower.embeddings(pixels.contiguous())
        if kept is not None:
            patches = embedded[:, 1:].take_along_dim(kept, 1)
            embedded = torch.cat([embedded[:, :1], patches], 1)
        states = tower.encoder(inputs_embeds=tower.pre_layrnorm(embedded))
        return cast(Tensor, tower.post_layernorm(states.last_hidden_state))

    def project_image(self, tokens: Tensor) -> Tensor:
        """Put images into the space of texts, (n, 384) of unit length.

        `tokens` are from `image_tokens`.
        """
        projected = self.clip.visual_projection(tokens[:, 0])
        return F.normalize(projected.float(), dim=-1)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Encode texts, given as token ids (n, m): (n, 384) of unit length."""
        projected = self.clip.get_text_features(tokens).pooler_output
        return F.normalize(projected.float(), dim=-1)

    def losses(self, batch: Batch, keep: float) -> dict[str, Tensor]:
        """Return the losses by the names in `LOSS_WEIGHTS`, unweighted.

        `batch` is from `Batches`. Of each image's patches a random share, `keep`, is
        seen.
        """
        # (n, patches, 32), in standard deviations.
        maps = batch["maps"] / corpus.MAP_LEVELS
        n, patches = maps.shape[:2]
        kept = None  # all
        if keep < 1:
            kept = draw_patches(n, patches, round(keep * patches))
            maps = maps.take_along_dim(kept, 1)
        tokens = self.image_tokens(batch["views"], kept)
        image = self.project_image(tokens)
        text = self.encode_text(batch["tokens"])
        # The texts are n captions, then prompts of the classes, then words.
        n_classes = batch["classes"].shape[1]
        captions = text[:n]
        names = text[n : n + n_classes]
        # From cosines to logits (Radford et al., section 2.5).
        scale = self.clip.logit_scale.exp().clamp(max=100)
        guessed_features = self.to_features(tokens[:, 0]).float()
        guessed_maps = self.to_map(tokens[:, 1:]).float()
        guessed_classes = F.log_softmax(scale * image @ names.T, dim=-1)
        return {
            "contrastive": clip_loss(scale * image @ captions.T, batch["same"]),
            "features": feature_loss(guessed_features, batch["features"]),
            "dense": F.smooth_l1_loss(guessed_maps, maps),
            "names": F.kl_div(
                guessed_classes,
                batch["classes"],
                log_target=True,
                reduction="batchmean",
            ),
            "sentences": 1 - (text * batch["sentences"]).sum(-1).mean(),
        }


def draw_patches(n: int, patches: int, m: int) -> Tensor:
    """Draw m of the patches of each of n images; return their numbers, (n, m, 1)."""
    shuffled = torch.rand(n, patches).argsort(1)
    return shuffled[:, :m, None]


class HeldOutPairs:
    """Images that are not trained on, each with its first caption.

    They are resized to `side` x `side` pixels. Their loss shows whether the training
    still improves what is not trained on.
    """

    def __init__(
        self, images: Sequence[CorpusImage], tokenizer: CLIPTokenizer, side: int
    ) -> None:
        squares = [
            np.asarray(load_image(image.data).resize((side, side))) for image in images
        ]
        self.views = torch.from_numpy(np.stack(squares))  # uint8 (n, side, side, 3)
        self.tokens = tokenize(tokenizer, [image.captions[0] for image in images])
        # (n, n): of which images the caption names the image's own concept.
        self.same = which_are_equal([image.concept for image in images])

    def loss(self, student: Student) -> float:
        """Return the contrastive loss of all pairs in one batch, in nats.

        `student` is left in evaluation mode.
        """
        student.eval()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            parts = [
                student.project_image(student.image_tokens(views))
                for views in torch.split(self.views, 64)
            ]
            text = student.encode_text(self.tokens)
            logits = student.clip.logit_scale.exp() * torch.cat(parts) @ text.T
            return clip_loss(logits, self.same).item()


def note_held_out(progress: Progress, loss: float) -> None:
    """Add the loss of held-out pairs, after a step, to the history of `progress`.

    When two losses in a row are no better than the best one before, the weight of the
    contrastive loss is halved.
    """
    progress.worse = 0 if loss < progress.best else progress.worse + 1
    progress.best = min(progress.best, loss)
    if progress.worse == 2:
        progress.weight /= 2
        progress.worse = 0
    rounded = round(loss, 4)
    row = {"step": progress.step, "held_out": rounded, "weight": progress.weight}
    progress.history.append(row)
    tqdm.write(str(row))


def make_optimizers(
    student: Student,
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Return Muon for the matrices of the transformer blocks, then AdamW for the rest.

    That is the order of `FULL_RATES`. `Run` sets the rates at each step. The heads
    learn faster: their group of AdamW has a factor on its rate, the entry "speed".
    """
    towers = (student.clip.vision_model, student.clip.text_model)
    matrices = [
        weight
        for tower in towers
        for weight in tower.encoder.parameters()
        if weight.ndim == 2
    ]
    heads = [*student.to_features.parameters(), *student.to_map.parameters()]
    taken = {*matrices, *heads}
    others = [weight for weight in student.parameters() if weight not in taken]
    decayed = [weight for weight in others if weight.ndim > 1]  # such as embeddings
    undecayed = [weight for weight in others if weight.ndim < 2]  # biases, layer norms
    muon = torch.optim.Muon(
        matrices, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": WEIGHT_DECAY},
            {"params": undecayed, "weight_decay": 0.0},
            {"params": heads, "weight_decay": 0.0, "speed": HEAD_SPEED},
        ],
        betas=(0.9, 0.98),
    )
    return muon, adam


def rate_at(step: int, steps: int, decay: float) -> float:
    """Return the learning rate at a step, from 0, as a share of the full rate.

    It rises over `WARM_UP` steps, stays at 1, and falls to zero over the last share,
    `decay`, of all steps.
    """
    return min(1.0, (step + 1) / WARM_UP, (steps - step) / (decay * steps))


class Run:
    """A student, its optimizers and its progress, which one file keeps together."""

    def __init__(self, student: Student, options: Options) -> None:
        self.student = student
        self.options = options
        self.optimizers = make_optimizers(student)
        self.progress = Progress()
        self.file = options.work / f"{options.name}.pt"

    def save(self) -> None:
        """Write the state to `file`, whose old content stays until all is written."""
        state = {
            "student": self.student.state_dict(),
            "opts": [optimizer.state_dict() for optimizer in self.optimizers],
            **vars(self.progress),
        }
        part = self.file.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.file)

    def resume(self) -> None:
        """Go on from the state that `save` has written, if there is one."""
        if not self.file.exists():
            return
        state = torch.load(self.file, weights_only=True)
        self.student.load_state_dict(state.pop("student"))
        for optimizer, saved in zip(self.optimizers, state.pop("opts"), strict=True):
            optimizer.load_state_dict(saved)
        self.progress = Progress(**state)

    def step(self, batch: Batch) -> None:
        """Take a step of both optimizers on a batch; note losses every `LOG_EVERY`."""
        options = self.options
        progress = self.progress
        # Set at each step, so that a resumed run drops the same patches.
        torch.manual_seed(options.seed * 1_000_003 + progress.step)
        sees_all = progress.step >= (1 - WHOLE_IMAGES) * options.steps
        self.student.train()
        with torch.autocast("cpu", torch.bfloat16):
            losses = self.student.losses(batch, 1.0 if sees_all else KEPT_PATCHES)
        weights = dict(LOSS_WEIGHTS)
        weights["contrastive"] *= progress.weight
        weighted = torch.stack(
            [weights[name] * losses[name] for name in options.losses]
        )
        torch.autograd.backward(weighted.sum())
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self._set_rates()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        progress.step += 1
        if progress.step % LOG_EVERY == 0:
            row = {name: round(loss.item(), 4) for name, loss in losses.items()}
            progress.history.append({"step": progress.step, **row})

    def _set_rates(self) -> None:
        """Set the learning rates of the optimizers for the step that is next."""
        share = rate_at(self.progress.step, self.options.steps, self.options.decay)
        for optimizer, full_rate in zip(self.optimizers, FULL_RATES, strict=True):
            for group in optimizer.param_groups:
                # Only the group of the heads has a speed.
                group["lr"] = full_rate * share * group.get("speed", 1)


def new_run(options: Options, tokenizer: CLIPTokenizer) -> Run:
    """Return a run before its first step, from ``options.start`` or random weights."""
    torch.manual_seed(options.seed)
    clip = new_clip(tokenizer, options.vision, options.text)
    if options.start:
        load_start(clip, options.start)
    return Run(Student(clip), options)


def train(options: Options, teachers: Teachers | None = None) -> None:
    """Train a CLIP, or go on where a run was interrupted, and write its checkpoint.

    A log is written beside it, ``training.json``. By default the `teachers` are
    EfficientNet-Lite0 and MiniLM, whose outputs are kept in the folder `work`.
    """
    options.work.mkdir(parents=True, exist_ok=True)
    everything = corpus.read_corpus(options.corpus, options.held_out)
    dropped = corpus.near_duplicates(everything, options.evaluation, options.work)
    held_out = [image for image in everything if image.held_out]
    images = [
        image for image in everything if not image.held_out and image.id not in dropped
    ]
    tokenizer = load_tokenizer()
    teachers = teachers or Teachers(options.work)
    texts = Texts(images, tokenizer, teachers)
    batches = Batches(images, texts, teachers, options)
    # A third of the held-out images is enough, and quicker.
    pairs = HeldOutPairs(held_out[::3], tokenizer, options.vision["image_size"])
    run = new_run(options, tokenizer)
    run.resume()
    take_steps(run, batches, pairs)
    facts = {
        "steps": options.steps,
        "batch": options.batch,
        "views": options.views,
        "losses": list(options.losses),
        "seed": options.seed,
        "samples": options.steps * options.batch,
        "seconds": round(run.progress.seconds),
        "images": len(images),
        "held_out": len(held_out),
        "dropped_duplicates": len(dropped),
    }
    write_checkpoint(run.student, tokenizer, options.out)
    log = {"facts": facts, "history": run.progress.history}
    (options.out / "training.json").write_text(json.dumps(log, indent=1) + "\n")


def take_steps(run: Run, batches: Batches, pairs: HeldOutPairs) -> None:
    """Take the steps of a run that are left.

    After every `check_every` steps and after the last, the loss of the held-out `pairs`
    is noted and the state is saved; this does not count as time of training.
    """
    options = run.options
    progress = run.progress
    batches_left = prefetched(batches, progress.step, options.steps)
    steps_left = options.steps - progress.step
    start = time.perf_counter()
    for batch in tqdm(batches_left, total=steps_left, mininterval=30):
        run.step(batch)
        progress.seconds += time.perf_counter() - start
        if progress.step % options.check_every == 0 or progress.step == options.steps:
            note_held_out(progress, pairs.loss(run.student))
            run.save()
        start = time.perf_counter()


def prefetched(batches: Batches, first: int, last: int) -> Iterator[Batch]:
    """Yield the batches of the steps from `first` to before `last`.

    A thread draws the next batch while one is used. `prepare`, which replaces the
    targets that a draw reads, is called between two draws.
    """
    if first >= last:
        return
    # One thread of PyTorch in it: a second team of OpenMP threads would keep the first
    # from spinning, and halve its speed.
    pool = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))

    def begin(step: int) -> Future[Batch]:
        """Let the thread draw the batch of a step."""
        batches.prepare(step)
        return pool.submit(batches, step)

    with pool:
        draw = begin(first)
        for next_step in range(first + 1, last):
            batch = draw.result()
            draw = begin(next_step)
            yield batch
        yield draw.result()


def write_checkpoint(student: Student, tokenizer: CLIPTokenizer, out: Path) -> None:
    """Write model (float16), tokenizer and image processor as Hugging Face reads them.

    The student's own weights become float16, too.
    """
    student.clip.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    side = student.clip.config.vision_config.image_size
    CLIPImageProcessorPil(
        size={"height": side, "width": side}, do_center_crop=False
    ).save_pretrained(out)


def read_options(arguments: Sequence[str] | None = None) -> Options:
    """Return the options that command-line arguments give, by default sys.argv's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("corpus", "evaluation", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("steps", "batch", "views", "check-every", "seed"):
        default = getattr(Options, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--work", type=Path, default=Options.work)
    parser.add_argument(
        "--decay",
        type=float,
        default=Options.decay,
        help="share of the steps over which the rate falls; 1 to go on",
    )
    parser.add_argument(
        "--start", type=Path, help="a checkpoint of the same shape to go on from"
    )
    parser.add_argument(
        "--name",
        default=Options.name,
        help="of the state: runs may share a work folder",
    )
    parser.add_argument(
        "--losses", nargs="+", default=Options.losses, choices=list(LOSS_WEIGHTS)
    )
    return Options(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    train(read_options())
