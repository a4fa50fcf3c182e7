"""Zero-shot classification and search on features whose answers are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.special import softmax
from sklearn.metrics import average_precision_score

from cliplib import dataset_spec, load_dataset, load_features
from cliplib import zeroshot as zs
from cliplib.intervals import ratio_intervals
from cliplib.retrieval import rank_metrics, search

ON_A_LINE = np.column_stack(
    [np.ones(6), np.arange(6)]
)  # row 0 is nearest to (1, 0), row 5 farthest


class Words:
    """A text encoder whose features can be worked out by hand: counts of three words, doubled."""

    def texts(self, texts):
        words = ("red", "green", "blue")
        return np.array(
            [[2 * text.split().count(word) for word in words] for text in texts]
        )


@pytest.fixture
def space():
    rng = np.random.default_rng(0)
    queries, gallery = rng.normal(size=(7, 8)), rng.normal(size=(60, 8))
    return queries, gallery, rng.integers(0, 3, 7), rng.integers(0, 3, 60)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


# Classification


def test_weights_are_the_normalised_mean_of_normalised_prompts():
    got = zs.zero_shot_weights(Words(), [["red", "green green green"]], ["{}"])
    # A plain mean would lean to green.
    assert got == pytest.approx(np.array([[1, 1, 0]]) / np.sqrt(2), abs=1e-6)


def test_every_phrase_goes_into_every_template():
    got = zs.zero_shot_weights(Words(), [["red"], "blue"], ["{}", "green {}"])
    expected = np.array([[1 + 2**-0.5, 2**-0.5, 0], [0, 2**-0.5, 1 + 2**-0.5]])
    assert got == pytest.approx(unit(expected), abs=1e-6)


def test_probabilities_are_those_of_transformers(tiny):
    images = [Image.new("RGB", (40, 40), color) for color in ("red", "white", "navy")]
    sentences = ["a photo of a cat.", "a photo of snow.", "rust"]
    tokens = tiny.tokenizer(sentences, padding=True, return_tensors="pt")
    pixels = torch.stack([torch.as_tensor(tiny.preprocess(image)) for image in images])
    with torch.no_grad():
        theirs = tiny.model(**tokens, pixel_values=pixels).logits_per_image.softmax(
            dim=1
        )
    weights = zs.zero_shot_weights(tiny, sentences, ["{}"])
    ours = tiny.logit_scale * tiny.images(images, readout="projected") @ weights.T
    assert softmax(ours, axis=1) == pytest.approx(theirs.numpy(), abs=1e-4)


def test_a_table_is_classified_by_the_phrases_of_a_data_set(tiny, image_folder):
    folder = image_folder(n=2)
    table, spec = load_features(folder, tiny), dataset_spec(folder)
    weights = zs.zero_shot_weights(tiny, list(spec.phrases.values()))
    cosines = (
        tiny.images(load_dataset(folder)["image"], readout="projected") @ weights.T
    )
    got = zs.zero_shot(tiny, table, spec)
    assert got == pytest.approx(softmax(tiny.logit_scale * cosines, axis=1), abs=1e-5)
    assert got.sum(axis=1) == pytest.approx(1)


# Search


def test_search_is_brute_force_with_ties_in_gallery_order(space):
    queries, gallery, *_ = space
    order, scores = search(queries, gallery, k=60)
    cosine = unit(queries) @ unit(gallery).T
    assert np.array_equal(order, np.argsort(-cosine, axis=1))
    assert scores == pytest.approx(-np.sort(-cosine, axis=1), abs=1e-6)
    tied = np.array([[0, 1], [1, 0], [2, 0], [1, 1]])
    assert search([[3, 0]], tied, k=3)[0].tolist() == [[1, 2, 3]]
    assert search([[3, 0]], tied, k=99)[0].shape == (1, 4)
    assert search(np.empty((0, 2)), tied, k=3)[0].shape == (0, 3)


def test_many_queries_find_what_each_finds_alone():
    rng = np.random.default_rng(3)
    queries, gallery = rng.normal(size=(1100, 4)), rng.normal(size=(20, 4))
    together = search(queries, gallery, k=3)[0]
    for i in (0, 511, 512, 1099):
        assert np.array_equal(
            search(queries[i : i + 1], gallery, k=3)[0][0], together[i]
        )


def test_finds_hold_one_of_each_group_and_none_of_the_query_s():
    groups = [0, 0, 1, 1, 2, 0]
    order, scores = search(ON_A_LINE[:1], ON_A_LINE, 3, groups=groups)
    assert order.tolist() == [[0, 2, 4]] and (np.diff(scores) < 0).all()
    order, _ = search(ON_A_LINE[:1], ON_A_LINE, 3, groups=groups, query_groups=[0])
    assert order.tolist() == [[2, 4]]
    order, _ = search(ON_A_LINE[:1], ON_A_LINE, 3, groups=groups, query_groups=[9])
    assert order.tolist() == [[0, 2, 4]]


# Rankings


def test_average_precision_is_that_of_scikit_learn(space):
    queries, gallery, asked, labels = space
    got = rank_metrics(queries, gallery, asked, labels)
    cosine = unit(queries) @ unit(gallery).T
    for i, label in enumerate(asked):
        expected = average_precision_score(labels == label, cosine[i])
        assert got.average_precision[i] == pytest.approx(expected)
        ranked = labels[np.argsort(-cosine[i])] == label
        for k in (1, 5, 10):
            assert got[f"precision_at_{k}"][i] == pytest.approx(ranked[:k].mean())
            assert got[f"recall_at_{k}"][i] == ranked[:k].any()
        assert got.share[i] == pytest.approx((labels == label).mean())


def test_a_query_s_own_group_is_no_find():
    labels, groups = [0, 0, 1, 1, 0, 1], [7, 7, 7, 2, 3, 4]
    own = {"query_groups": [7], "gallery_groups": groups}
    got = rank_metrics(ON_A_LINE[:1], ON_A_LINE, [0], labels, **own).loc[0]
    assert got[["average_precision", "recall_at_1"]].tolist() == [0.5, 0]
    assert got.share == pytest.approx(1 / 3)
    assert rank_metrics(ON_A_LINE[:1], ON_A_LINE, [0], labels).recall_at_1[0] == 1


def test_nothing_to_find_and_too_few_candidates_are_undefined():
    got = rank_metrics(ON_A_LINE[:2], ON_A_LINE[:3], [5, 0], [0, 0, 1])
    assert got.drop(columns="share").iloc[0].isna().all() and got.share[0] == 0
    assert got.recall_at_1[1] == 1
    assert np.isnan(got.recall_at_5[1]) and np.isnan(got.precision_at_5[1])


def test_ties_never_flatter():
    got = rank_metrics(np.ones((1, 2)), np.ones((5, 2)), [1], [1, 1, 0, 0, 0]).loc[0]
    assert got[["precision_at_1", "precision_at_5"]].tolist() == [0, 0.4]
    assert got.average_precision == pytest.approx((1 / 4 + 2 / 5) / 2)


def test_means_of_queries_leave_out_what_is_undefined():
    frame = pd.DataFrame({"average_precision": [0.2, 0.4, np.nan, 0.6]})
    got = ratio_intervals(frame, frame.notna(), groups=[0, 1, 2, 3], n_boot=100)
    assert got.value.tolist() == pytest.approx([0.4])


def test_what_would_mislead_is_refused():
    with pytest.raises(ValueError, match="a list of texts with a {} each"):
        zs.zero_shot_weights(Words(), [["red"]], "a photo of {}.")
    with pytest.raises(ValueError, match="Give a list of phrases"):
        zs.zero_shot_weights(Words(), "red")
    with pytest.raises(ValueError, match="or of neither"):
        rank_metrics(ON_A_LINE, ON_A_LINE, range(6), range(6), query_groups=[1] * 6)
    with pytest.raises(ValueError, match="shorter"):
        rank_metrics(ON_A_LINE, ON_A_LINE, [0], range(6))


def test_groups_of_queries_need_those_of_the_gallery():
    with pytest.raises(ValueError, match="groups of both queries and gallery"):
        search(ON_A_LINE[:1], ON_A_LINE, 3, query_groups=[0])
