"""What encoding takes: the counts are those of the architecture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_others import make_convnext, make_dinov2, make_siglip, save
from transformers import CLIPConfig, CLIPModel

from cliplib.encoders.checkpoint import find_checkpoint
from cliplib.encoders.cost import encoding_cost, flops_of_one_core


def test_a_vit_b_32_is_counted_as_it_is_known(tmp_path: Path) -> None:
    CLIPConfig(projection_dim=512).save_pretrained(tmp_path)
    cost = encoding_cost(str(tmp_path))
    assert cost.parameters == 151_277_313
    assert cost.operations == pytest.approx(2 * 4.41e9, rel=0.005)
    assert cost.width == 768
    assert cost.gigabytes == pytest.approx(1.21, abs=0.01)
    assert cost.minutes(600, cost.operations / 0.7) == pytest.approx(10)


def test_parameters_are_those_of_the_weights() -> None:
    folder = find_checkpoint("mini")
    weights = CLIPModel.from_pretrained(folder).parameters()
    cost = encoding_cost(folder)
    assert cost.parameters == sum(weight.numel() for weight in weights)
    assert cost.width == 320


def test_a_model_of_images_alone_is_counted(tmp_path: Path) -> None:
    cost = encoding_cost(str(save(tmp_path / "model", *make_siglip())))
    assert cost.width == 32 and cost.operations > 0


@pytest.mark.parametrize("make", [make_dinov2, make_convnext])
def test_other_kinds_are_counted_at_the_size_that_they_are_shown(
    make: object, tmp_path: Path
) -> None:
    folder = save(tmp_path / "model", *make())  # type: ignore[operator]
    small = encoding_cost(str(folder))
    assert small.operations > 0 and small.width in (16, 32)
    path = folder / "preprocessor_config.json"
    shown = json.loads(path.read_text())
    key = "crop_size" if "crop_size" in shown else "size"
    path.write_text(json.dumps(shown | {key: {"height": 64, "width": 64}}))
    assert encoding_cost(str(folder)).operations > 2 * small.operations


def test_the_speed_of_this_processor_is_measured() -> None:
    assert 1e8 < flops_of_one_core(seconds=0.01) < 1e14
