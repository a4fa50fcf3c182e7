"""Zero-shot classification, search and captions on features whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from cliplib import zeroshot as zs
from cliplib.errors import CliplibError


class Words:
    """A text encoder whose features can be worked out by hand: counts of three words, doubled."""

    def texts(self, texts, *, normalize=False):
        x = np.array([[2.0 * t.split().count(w) for w in ("red", "green", "blue")] for t in texts], np.float32)
        return zs.normalized(x) if normalize else x


def test_weights_are_the_normalised_mean_of_normalised_prompts():
    got = zs.zero_shot_weights(Words(), [["red", "green green green"]], ["{}"])
    assert got == pytest.approx(np.array([[1, 1, 0]]) / np.sqrt(2), abs=1e-6)  # a plain mean would lean to green


def test_every_phrase_goes_into_every_template():
    assert zs.fill(["a {}.", "the {}"], "cat") == ["a cat.", "the cat"]
    got = zs.zero_shot_weights(Words(), [["red"], ["blue"]], ["{}", "green {}"])
    expected = np.array([[1 + 2**-0.5, 2**-0.5, 0], [0, 2**-0.5, 1 + 2**-0.5]])
    assert got == pytest.approx(expected / np.linalg.norm(expected, axis=1, keepdims=True), abs=1e-6)


def test_probabilities_use_the_model_s_temperature():
    images, weights = np.eye(3) * 7, np.eye(3)
    soft, sharp = (zs.zero_shot_proba(images, weights, scale) for scale in (1.0, 100.0))
    assert soft.sum(axis=1) == pytest.approx(1)
    assert soft[0, 0] == pytest.approx(np.e / (np.e + 2))
    assert sharp[0, 0] > 0.999


def test_search_is_ordered_and_stable():
    gallery = np.array([[0, 1], [1, 0], [2, 0], [1, 1]], float)
    order, scores = zs.search([[3, 0]], gallery, k=3)
    assert order.tolist() == [[1, 2, 3]]
    assert scores[0] == pytest.approx([1, 1, 2**-0.5])
    assert zs.search([[3, 0]], gallery, k=99)[0].shape == (1, 4)


def test_search_equals_brute_force():
    rng = np.random.default_rng(0)
    q, g = rng.normal(size=(5, 8)), rng.normal(size=(40, 8))
    cosine = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in g] for a in q])
    assert np.array_equal(zs.search(q, g, k=40)[0], np.argsort(-cosine, axis=1))


def test_a_blend_asks_for_both_and_has_the_two_queries_as_its_ends():
    rng = np.random.default_rng(1)
    gallery = rng.normal(np.arange(6) * 2, size=(50, 6))
    image, text = gallery[:1], rng.normal(size=(2, 6))
    like, said = np.repeat(zs.normalized(image), 2, axis=0), zs.normalized(text)
    assert zs.blend(image, text, gallery, weight=0) == pytest.approx(like, abs=1e-6)
    assert zs.blend(image, text, gallery, weight=1) == pytest.approx(said, abs=1e-6)
    cosine = [zs.normalized(x) @ zs.normalized(gallery).T for x in (image, text)]
    summed = sum(c / c.std(axis=1, keepdims=True) for c in cosine)  # equal say, whatever their spread
    assert zs.search(zs.blend(image, text, gallery), gallery, 50)[0].tolist() == np.argsort(-summed, axis=1).tolist()


def test_the_bank_holds_every_combination_and_whose_word_it_took():
    bank = zs.sentence_bank("{a} {thing} {where}", a=["", "an old"], thing={"x": ["can", "tin"], "y": ["jar"]},
                            where=["on a table"])  # fmt: skip
    assert bank.sentence.tolist()[:3] == ["can on a table", "tin on a table", "jar on a table"]
    assert len(bank) == 6 and bank.label.tolist() == ["x", "x", "y"] * 2
    assert bank.loc[5, ["sentence", "a", "thing"]].tolist() == ["an old jar on a table", "an old", "jar"]
    assert list(zs.sentence_bank("{a}", a=["b"]).columns) == ["sentence", "a"]


def test_recall_counts_matches_within_k():
    queries, gallery = np.eye(3), np.eye(3)[[1, 0, 2]]
    got = zs.recall_at_k(queries, gallery, ks=(1, 2, 3))
    assert got[1].tolist() == [False, False, True]
    assert got[3].tolist() == [True, True, True]


def test_recall_does_not_flatter_ties():
    got = zs.recall_at_k(np.ones((4, 2)), np.ones((4, 2)), ks=(1, 3, 4))
    assert [v.mean() for v in got.values()] == [0, 0, 1]


def test_recall_with_several_matches_and_none():
    matches = np.array([[False, True, True], [False, False, False]])
    got = zs.recall_at_k([[1, 0], [1, 0]], [[1, 0], [0.9, 0.1], [0, 1]], matches, ks=(1, 2))
    assert got[1].tolist() == [False, False]
    assert got[2].tolist() == [True, False]


def test_caption_names_best_and_runner_up():
    got = zs.caption([[1, 0.2, 0]], ["red", "green", "blue"], np.eye(3))
    assert got.loc[0, ["caption", "runner_up"]].tolist() == ["red", "green"]
    assert got.loc[0, "score"] > got.loc[0, "runner_up_score"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: zs.zero_shot_weights(Words(), []), "one non-empty list of texts per class"),
        (lambda: zs.zero_shot_weights(Words(), [["red"], []]), "one non-empty list of texts per class"),
        (lambda: zs.zero_shot_weights(Words(), ["red"]), "one non-empty list of texts per class"),
        (lambda: zs.zero_shot_weights(Words(), [["red"]], ["a photo"]), "exactly once"),
        (lambda: zs.zero_shot_weights(Words(), [["red"]], "a {}"), "non-empty list"),
        (lambda: zs.search(np.ones((1, 2)), np.ones((1, 3))), "2 and of 3 dimensions"),
        (lambda: zs.search(np.ones((1, 2)), np.ones((1, 2)), k=0), "at least 1"),
        (lambda: zs.search([[np.nan, 1]], np.ones((3, 2))), "hold NaN"),
        (lambda: zs.search([[1, 1]], [[1, 1], [np.nan, 0]]), "hold NaN"),
        (lambda: zs.normalized(np.ones(3)), r"shape \(n, d\)"),
        (lambda: zs.recall_at_k(np.ones((2, 2)), np.ones((2, 2)), np.ones((1, 2))), "shape"),
        (lambda: zs.blend(np.eye(2), np.eye(2), np.eye(2), weight=2), "between 0 and 1"),
        (lambda: zs.blend(np.eye(3), np.ones((2, 3)), np.eye(3)), "no pairs"),
        (lambda: zs.sentence_bank("a {b}", b=["c"], d=["e"]), "'d' needs words"),
        (lambda: zs.sentence_bank("a {b}", b=[]), "'b' needs words"),
        (lambda: zs.sentence_bank("{b} {c}", b={"x": ["y"]}, c={"x": ["y"]}), "Only one slot"),
        (lambda: zs.caption(np.ones((1, 2)), ["one"], np.ones((1, 2))), "at least two"),
    ],
)
def test_wrong_arguments_are_one_sentence(call, words):
    with pytest.raises(CliplibError, match=words) as error:
        call()
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
