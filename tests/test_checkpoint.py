"""Opening checkpoints: the same model from every format, and one sentence for everything that is not one."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

from cliplib.encoder.checkpoint import MINI, fingerprint_weights, load_checkpoint
from cliplib.errors import CliplibError


@pytest.fixture
def copy(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may change."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))


def mark(folder: Path) -> str:
    return fingerprint_weights(load_checkpoint(folder).model, {}, "model")


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def to_bin(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def test_same_model_in_every_format(copy: Path, tmp_path: Path) -> None:
    expected = mark(copy)
    model = load_checkpoint(copy).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training
    model.save_pretrained(copy, max_shard_size="40KB")
    (copy / "model.safetensors").unlink(missing_ok=True)
    assert len(list(copy.glob("model-*.safetensors"))) > 1
    assert mark(copy) == expected
    for file in copy.glob("model*"):
        file.unlink()
    model.save_pretrained(copy)
    to_bin(copy)
    assert mark(copy) == expected


def test_half_precision_checkpoint_has_one_fingerprint(copy: Path, tmp_path: Path) -> None:
    def halve(weights: dict[str, torch.Tensor]) -> None:
        weights.update({name: weight.half() for name, weight in weights.items()})

    edit_weights(copy, halve)
    half = mark(copy)
    edit_weights(copy, lambda weights: weights.update({k: w.float() for k, w in weights.items()}))
    assert mark(copy) == half


def test_fingerprint_sees_weights_architecture_and_preprocessing(copy: Path, tiny_checkpoint: Path) -> None:
    original = mark(tiny_checkpoint)
    model = load_checkpoint(copy).model
    assert fingerprint_weights(model, {"size": 1}, "m") != fingerprint_weights(model, {"size": 2}, "m")
    config = json.loads((copy / "config.json").read_text())
    config["vision_config"]["hidden_act"] = "gelu"
    (copy / "config.json").write_text(json.dumps(config))
    changed = mark(copy)
    assert changed != original

    def nudge(weights: dict[str, torch.Tensor]) -> None:
        weights["visual_projection.weight"][0, 0] += 1e-4

    edit_weights(copy, nudge)
    assert mark(copy) not in (changed, original)


def test_tokenizer_of_separate_files(copy: Path, tiny_checkpoint: Path) -> None:
    content = json.loads((copy / "tokenizer.json").read_text())["model"]
    (copy / "vocab.json").write_text(json.dumps(content["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["merges"]]
    (copy / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    (copy / "tokenizer.json").unlink()
    texts = ["a photo of a DISC", "it's   red, quickly: 12"]
    assert (
        load_checkpoint(copy).tokenizer(texts)["input_ids"]
        == load_checkpoint(tiny_checkpoint).tokenizer(texts)["input_ids"]
    )


def test_name_has_no_machine_path(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_checkpoint(copy).name == "copy"
    monkeypatch.chdir(copy)
    assert load_checkpoint(".").name == "copy"


def test_nothing_is_printed(tiny_checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_checkpoint(tiny_checkpoint)
    assert capfd.readouterr() == ("", "")


class Evil:
    """Its unpickling would leave a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_pickled_code_is_refused_unrun(copy: Path, tmp_path: Path, form: str) -> None:
    weights: dict[str, Any] = dict(load_file(copy / "model.safetensors"))
    weights["extra"] = Evil(tmp_path / "trace")
    (copy / "model.safetensors").unlink()
    if form == "pickle":
        with open(copy / "pytorch_model.bin", "wb") as file:
            pickle.dump(weights, file, protocol=2)
    else:
        torch.save(weights, copy / "pytorch_model.bin", _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CliplibError, match=r"is refused: its pytorch_model\.bin .* more than tensors"):
        load_checkpoint(copy)
    assert not (tmp_path / "trace").exists()


def test_safetensors_come_first(copy: Path, tmp_path: Path) -> None:
    torch.save({"extra": Evil(tmp_path / "trace")}, copy / "pytorch_model.bin")
    load_checkpoint(copy)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer_config.json"])
def test_remote_code_is_refused(copy: Path, name: str) -> None:
    edit(copy / name, auto_map={"AutoModel": "evil.Model"})
    (copy / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(CliplibError, match=f"is refused: its {re.escape(name)} asks to run code of its own"):
        load_checkpoint(copy)


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def drop_weights(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.__delitem__("visual_projection.weight"))


def poison(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.update({"text_projection.weight": torch.full((24, 32), torch.nan)}))


def cut(name: str) -> Callable[[Path], None]:
    def work(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return work


def cut_bin(folder: Path) -> None:
    to_bin(folder)
    cut("pytorch_model.bin")(folder)


def grow_tokens(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    content["text_config"]["vocab_size"] = 100
    (folder / "config.json").write_text(json.dumps(content))
    edit_weights(
        folder,
        lambda w: w.update({k: v[:100].clone() for k, v in w.items() if "token_embedding" in k}),
    )


def widen(folder: Path) -> None:
    edit(folder / "config.json", projection_dim=99)


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (remove("config.json"), "is not a checkpoint: there is no config.json in it."),
        (lambda f: (f / "config.json").write_text("{"), "is damaged: its config.json cannot be read"),
        (lambda f: (f / "config.json").write_text("[]"), "is damaged: its config.json is not a JSON object."),
        (lambda f: edit(f / "config.json", model_type="siglip"), "is a model of the type 'siglip'; only CLIP"),
        (remove("model.safetensors"), "has no weights: neither model.safetensors nor pytorch_model.bin."),
        (cut("model.safetensors"), "cannot be loaded, it is damaged or incomplete"),
        (cut_bin, "cannot be loaded, it is damaged or incomplete"),
        (drop_weights, "lacks 1 weights, the first is 'visual_projection.weight'"),
        (widen, "cannot be loaded, it is damaged or incomplete"),
        (remove("preprocessor_config.json"), "is incomplete: preprocessor_config.json"),
        (remove("tokenizer.json"), "is incomplete: its tokenizer"),
        (cut("tokenizer.json"), "cannot be loaded, it is damaged or incomplete"),
        (grow_tokens, "does not fit together: its tokenizer has"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damage_is_one_sentence(copy: Path, harm: Callable[[Path], None], sentence: str) -> None:
    harm(copy)
    with pytest.raises(CliplibError, match=re.escape(sentence)) as caught:
        load_checkpoint(copy)
    assert str(caught.value).startswith(f"The checkpoint {str(copy)!r}")
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_numbers_are_refused(copy: Path) -> None:
    poison(copy)
    with pytest.raises(CliplibError, match=r"The model 'model' has NaN or infinity in its weight 'text_projection"):
        mark(copy)


def test_weights_without_a_place_are_named(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit_weights(copy, lambda weights: weights.update({"adapter.weight": torch.zeros(2)}))
    load_checkpoint(copy)
    assert "1 weights have no place in CLIPModel, the first is adapter.weight" in caplog.text


@pytest.mark.parametrize("model", ["nowhere", "/no/such/folder", "./relative", "a/b/c", "~/nothing/here"])
def test_no_such_folder(model: str) -> None:
    with pytest.raises(CliplibError, match=f"There is no model '{model}': name a folder .* '{MINI}', the embedded"):
        load_checkpoint(model)


def test_hub_id_without_network_names_what_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    sentence = r"hub cannot be reached, .* local cache; a folder with a checkpoint works too, and so does 'mini'"
    with pytest.raises(CliplibError, match=sentence):
        load_checkpoint("openai/clip-vit-base-patch32")
    with pytest.raises(CliplibError, match="Cannot get the model 'bad name/--x'"):
        load_checkpoint("bad name/--x")


@pytest.mark.parametrize("safe", [True, False])
def test_earlier_download_serves_without_network(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, safe: bool
) -> None:
    expected = mark(copy)
    if not safe:
        to_bin(copy)
    home = tmp_path / "hub" / "models--owner--clip"
    shutil.copytree(copy, home / "snapshots" / ("0" * 40))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    found = load_checkpoint("owner/clip")
    assert found.name == "owner/clip"
    assert isinstance(found.model, CLIPModel)
    assert fingerprint_weights(found.model, {}, "model") == expected
    with pytest.raises(CliplibError, match="Cannot get the model 'owner/clip'"):
        load_checkpoint("owner/clip", revision="v2")


@pytest.mark.parametrize("safe", [True, False])
def test_what_is_asked_of_the_hub(copy: Path, monkeypatch: pytest.MonkeyPatch, safe: bool) -> None:
    if not safe:
        to_bin(copy)
    asked: list[tuple[str, str | None, list[str]]] = []

    def download(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision, allow_patterns))
        return str(copy)

    monkeypatch.setattr("cliplib.encoder.checkpoint.snapshot_download", download)
    load_checkpoint("owner/clip", revision="abc")
    assert [request[:2] for request in asked] == [("owner/clip", "abc")] * (1 if safe else 2)
    assert not any("pytorch_model" in pattern for pattern in asked[0][2])
    assert not any(pattern.endswith((".py", "*")) for request in asked for pattern in request[2])
