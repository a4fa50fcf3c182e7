"""The embedded model's card, filled from its JSON files (Mitchell et al., "Model cards for model reporting", 2019).

python -m cliplib.mini.card CHECKPOINT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

CARD = """---
license: mit
library_name: transformers
pipeline_tag: zero-shot-image-classification
---

# cliplib mini

A small CLIP, so that everything in cliplib runs offline on two cores. It is a plain `CLIPModel`:

```python
from transformers import CLIPModel, CLIPProcessor

model = CLIPModel.from_pretrained("cliplib/mini")
processor = CLIPProcessor.from_pretrained("cliplib/mini")
```

Vision tower: {vision[num_hidden_layers]} layers of width {vision[hidden_size]}, {vision[image_size]} x
{vision[image_size]} pixels, patches of {vision[patch_size]}. Text tower: {text[num_hidden_layers]} layers of width
{text[hidden_size]}, {text[vocab_size]:,} byte-pair tokens, at most {text[max_position_embeddings]} a text, English.
Shared space: {dim} dimensions. Weights are stored in float16.

## Training

`python -m cliplib.mini.pretrain`: {facts[samples]:,} samples ({facts[steps]:,} steps of {facts[batch]}) from
{facts[pictures]:,} pictures, {hours:.1f} hours on {device}, seed {facts[seed]}; the learning rate falls to nothing at
step {legs}. Losses: contrastive on image-text pairs; features and class probabilities of a frozen EfficientNet-Lite0
(ImageNet); sentence embeddings of a frozen MiniLM. Half of the patches are dropped for most of the steps. The log is
`training.json`.

| pictures | licence, as far as known |
|---|---|
| Tiny ImageNet, a sample of ImageNet | research use |
| Caltech-101 | CC BY 4.0 |
| PACS, DTD (ten textures), Flickr8k (1,000) | research use |
| Grocery Store | MIT |
| Fashion Product Images | unclear |
| chest X-rays (Kermany et al.) | CC BY 4.0 |
| breast ultrasound (BUSI) | CC BY 4.0, unverified |
| emoji (Twitter, Google) | CC BY 4.0, Apache 2.0 |
| COCO (239) | CC BY 4.0 (captions) |

Teachers: EfficientNet-Lite0 and all-MiniLM-L6-v2, both Apache 2.0. Several of the collections allow research only:
treat these weights the same way. No image of TrashNet and none of the Brain Tumor MRI Dataset was trained on;
{facts[dropped_as_twins]} pictures were dropped as near-duplicates of one of their images.

## Results

Linear probe on frozen pooled features, regularisation chosen on validation images, published test splits; brackets hold
95 % intervals. `checks.json` has all of it.

| check | random weights | this model | vision teacher |
|---|---|---|---|
| TrashNet, authors' split | {r_trash} | {m_trash} | {t_trash} |
| Brain Tumor MRI, published (leaky) split | {r_mri} | {m_mri} | {t_mri} |
| zero-shot, {zs[n]} held-out Caltech-101 pictures, {zs[classes]} words | {r_zs:.1%} | {zs[accuracy]:.1%} | |
| text to image, recall@10 of {re[n]:,} held-out captioned pictures | {re_chance:.1%} | {re_10:.1%} | |
| of them, {sc[n]} scenes | {sc_chance:.1%} | {sc_10:.1%} | |

## Limits

It has seen few pictures and fewer sentences: it knows common objects by name, and little of scenes, relations, numbers
or text in images. Its inputs are small, so fine detail is lost. Biases of its sources and of its teachers are in it and
were not measured. It must not be used for diagnosis or any decision about people, for surveillance, or as evidence of
what OpenAI's CLIP can do: those weights were not run here.
"""


def card(folder: Path) -> str:
    """Markdown of the card, from ``config.json``, ``training.json`` and ``checks.json`` in `folder`."""
    config, training, checks = (
        json.loads((folder / f"{n}.json").read_text()) for n in ("config", "training", "checks")
    )
    facts, zs, re, sc = (
        training["facts"], checks["zero_shot_caltech101"], checks["retrieval"], checks["retrieval_scenes"]
    )  # fmt: skip

    def shown(found: dict[str, Any], name: str) -> str:
        a = found["probes"][name]
        return f"{a['value']:.1%} [{100 * a['low']:.1f}, {100 * a['high']:.1f}]"

    cells = {
        f"{key}_{short}": shown(found, name)
        for key, found in (("r", checks["random_weights"]), ("m", checks), ("t", checks["teacher"]))
        for short, name in (("trash", "trashnet"), ("mri", "brain_tumor_mri"))
    }
    return CARD.format(
        vision=config["vision_config"], text=config["text_config"], dim=config["projection_dim"], facts=facts,
        hours=facts["seconds"] / 3600, device={"cpu": "two shared CPU cores"}.get(facts["device"], facts["device"]),
        legs=" and again at ".join(f"{step:,}" for step in facts.get("legs", [facts["steps"]])),
        zs=zs, re=re, sc=sc, r_zs=checks["random_weights"]["zero_shot_caltech101"]["accuracy"],
        re_chance=10 / re["n"], re_10=re["text_to_image"]["recall_at_10"],
        sc_chance=10 / sc["n"], sc_10=sc["text_to_image"]["recall_at_10"], **cells,
    )  # fmt: skip


if __name__ == "__main__":
    (Path(sys.argv[1]) / "README.md").write_text(card(Path(sys.argv[1])))
