"""Where a classifier on frozen CLIP features looks: heat maps over the patches of the vision tower, and their tests.

Two kinds of map, both for the class token, from which the features come: `attention_rollout` follows the attention and
knows of no class; `relevance` weighs it by the gradient of one class's logit. A map that looks right proves nothing.
Whether it depends on what the tower has learned is the question of `randomised`; whether the classifier depends on the
patches that it marks, that of `deletion_insertion`.
"""

from cliplib.explain.checks import Curves, deletion_insertion, randomised, rank_correlation
from cliplib.explain.maps import as_seen, attention_rollout, overlay, probe_directions, relevance

__all__ = [
    "Curves",
    "as_seen",
    "attention_rollout",
    "deletion_insertion",
    "overlay",
    "probe_directions",
    "randomised",
    "rank_correlation",
    "relevance",
]
