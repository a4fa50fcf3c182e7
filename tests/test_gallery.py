"""Galleries, captioned pictures and the search box, drawn and answered without a screen."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cliplib import load_dataset
from cliplib.errors import CliplibError, ImageError
from cliplib.gallery import caption_panel, result_gallery, search_box, thumbnails


class Colours:
    """A text encoder of three words."""

    def texts(self, texts, *, normalize=False):
        return np.array([[w in t for w in ("red", "green", "blue")] for t in texts], np.float32) + 0.01


def square(colour="red", size=(40, 30)):
    return Image.new("RGB", size, colour)


def png(colour="red"):
    square(colour).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


def texts_of(fig):
    return [t.get_text() for ax in fig.axes for t in (*ax.texts, ax.title) if t.get_text()]


def test_thumbnails_are_small_whole_and_in_the_order_of_the_ids(image_folder, monkeypatch):
    monkeypatch.setattr("cliplib.gallery.SIDE", 28)
    images = load_dataset(image_folder)
    got = thumbnails(images, [images["id"][row] for row in (9, 0)])
    assert [picture.size for picture in got] == [(28, 22)] * 2  # 56 x 44, its shape kept
    for picture, row in zip(got, (9, 0), strict=True):
        full = Image.open(images["image"][row]["path"]).convert("RGB").resize((28, 22), Image.Resampling.LANCZOS)
        assert np.abs(np.asarray(picture, int) - np.asarray(full, int)).mean() < 3
    with pytest.raises(CliplibError, match="no picture 'nowhere'"):
        thumbnails(images, ["nowhere"])


def test_a_gallery_says_right_and_wrong_by_sign_and_line():
    queries = ["something red", square(), (square("blue"), "but red")]
    fig = result_gallery(queries, [[square()] * 2] * 3, np.full((3, 2), 0.314), [["a", "b"]] * 3,
                         [[True, False]] * 3)  # fmt: skip
    said = texts_of(fig)
    assert said.count("✓ a 0.31") == said.count("✗ b 0.31") == 3
    assert "“something red”" in said and "“but red”" in said
    right, wrong = fig.axes[1], fig.axes[2]
    lines = [ax.spines["top"].get_linestyle() for ax in (right, wrong)]
    assert lines[0] != lines[1] and wrong.images and right.images
    assert sum(len(child.images) for ax in fig.axes for child in ax.child_axes) == 2  # the two queries with pictures


def test_a_gallery_without_labels_marks_nothing():
    fig = result_gallery(["x"], [[square()]], [[0.5]], [["a"]])
    assert "a 0.50" in texts_of(fig)
    assert fig.axes[1].spines["top"].get_linestyle() == "solid"


def test_captioned_pictures_show_the_sentence_and_its_rival():
    told = pd.DataFrame({"caption": ["a can", "a jar"], "score": [0.3, 0.2]})
    told = told.assign(runner_up=["a box", "a lid"], runner_up_score=[0.25, 0.125])
    fig = caption_panel([square(), square()], told, ["metal", "glass"], [True, False])
    said = texts_of(fig)
    assert said == ["✓ metal", "a can (0.30)", "a box (0.25)", "✗ glass", "a jar (0.20)", "a lid (0.12)"]
    assert "metal" in texts_of(caption_panel([square()], told[:1], ["metal"]))


@pytest.fixture
def box():
    pictures = [png("red"), png("green"), png("blue"), b"no picture"]
    titles = ['red <script>alert("x")</script>', "green", "blue", "broken & blue"]
    features = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]])
    return search_box(Colours(), features, titles, pictures=pictures, k=2)


def test_the_search_box_answers_as_one_types(box):
    query, answer = box.children
    assert query.continuous_update
    assert "<img" not in answer.value
    query.value = "somewhat gree"
    assert "<img" in answer.value
    query.value = "something green"
    first = re.search(r'src="data:image/jpeg;base64,([^"]+)">', answer.value).group(1)
    pixel = Image.open(io.BytesIO(base64.b64decode(first))).getpixel((5, 5))
    assert pixel[1] > max(pixel[0], pixel[2])
    assert answer.value.count("<figure") == 2
    query.value = "  "
    assert "<img" not in answer.value


def test_the_search_box_escapes_and_loads_nothing_from_elsewhere(box):
    query, answer = box.children
    query.value = "red <b>"
    assert "<script" not in answer.value and "<b>" not in answer.value
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;" in answer.value
    query.value = "blue"
    assert "broken &amp; blue" in answer.value and "<em>it is not a picture" in answer.value
    assert not re.search(r"(src|href)=\"(?!data:image)", answer.value)


def test_the_search_box_works_without_pictures_and_shows_no_copies():
    features = np.array([[1, 0, 0], [0.9, 0, 0.01], [0, 1, 0]])
    box = search_box(Colours(), features, ["one", "its copy", "other"], groups=[0, 0, 1], k=3, start="red")
    answer = box.children[1].value
    assert "its copy" in answer and "other" in answer and "one" not in answer and "<img" not in answer  # the nearer


def test_the_search_box_asks_a_real_encoder(tiny_encoder, image_files):
    features = tiny_encoder.images(image_files[:5], kind="projected", progress=False)
    box = search_box(tiny_encoder, features, [f.name for f in image_files[:5]], pictures=image_files[:5], k=3)
    box.children[0].value = "a photo of a disc"
    assert box.children[1].value.count("<img") == 3


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: result_gallery(["x"], [[square()]], [[0.5, 0.4]], [["a"]]), CliplibError, "equally many per query"),
        (lambda: result_gallery([], [], [], []), CliplibError, "equally many per query"),
        (lambda: caption_panel([square()], pd.DataFrame(), []), CliplibError, "do not match"),
        (lambda: search_box(Colours(), np.eye(3), ["one"]), CliplibError, "a title"),
        (lambda: thumbnails({"id": ["a"], 0: {"image": b"?"}}, ["a"]), ImageError, "not a picture"),
    ],
)
def test_wrong_arguments_are_one_sentence(call, error, words):
    with pytest.raises(error, match=words) as raised:
        call()
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)
