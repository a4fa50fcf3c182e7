"""Both probes: what they learn, how they choose, that they are scikit-learn classifiers, that they survive a save."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from cliplib.errors import ArgumentError, CliplibError
from cliplib.probes import L2_VALUES, LinearProbe, MLPProbe, load_probe, save_probe, validation_split

Array = np.ndarray[Any, Any]

QUICK_MLP = MLPProbe(hidden=16, learning_rate=1e-2, max_epochs=30, patience=5)
PROBES = [LinearProbe(), QUICK_MLP]
each_probe = pytest.mark.parametrize("probe", PROBES, ids=lambda probe: type(probe).__name__)


def planted(
    n: int = 240, d: int = 12, k: int = 3, noise: float = 1.0, seed: int = 0, offset: float = 0.0
) -> tuple[Array, Array]:
    """Gaussian classes whose centres lie 3 apart, in axes of very different length: (n, d) float32 and (n,) labels."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(k, d)) * 3 / np.sqrt(d)
    y = np.arange(n) % k
    X = (centres[y] + noise * rng.normal(size=(n, d))) * np.logspace(-2, 2, d) + offset
    return X.astype(np.float32), y


# --- scikit-learn's contract ---------------------------------------------------------------------------------------


@parametrize_with_checks(
    [
        LinearProbe(l2=(0.01, 1.0, 100.0)),
        LinearProbe(l2=(1.0, 100.0), cv=2, class_weight="balanced", standardize=False),
        QUICK_MLP,
    ]
)
def test_is_a_scikit_learn_classifier(estimator: Any, check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # without it, scikit-learn skips one of its checks
    check(estimator)


@each_probe
def test_works_inside_scikit_learn(probe: Any) -> None:
    X, y = planted(120)
    labels = np.array(["glioma", "none", "pituitary"])[y]
    quick = clone(probe).set_params(**({"l2": (0.1, 10.0)} if isinstance(probe, LinearProbe) else {}))
    assert clone(quick).get_params() == quick.get_params()

    pipe = make_pipeline(StandardScaler(), clone(quick))
    pipe.fit(X, labels, **{f"{type(probe).__name__.lower()}__groups": 40 * y + np.arange(120) // 6})
    assert pipe.score(X, labels) > 0.85

    search = GridSearchCV(quick, {"standardize": [True, False]}, cv=2).fit(X, labels)
    assert search.best_params_ == {"standardize": True}

    calibrated = CalibratedClassifierCV(quick, cv=2).fit(X, labels)
    assert calibrated.predict_proba(X).shape == (120, 3) and calibrated.score(X, labels) > 0.85


# --- what is learned -----------------------------------------------------------------------------------------------


@each_probe
@pytest.mark.parametrize("k", [2, 4])
def test_planted_classes_are_found(probe: Any, k: int) -> None:
    X, y = planted(80 * k, k=k, offset=5.0)
    X_test, y_test = planted(80 * k, k=k, seed=1, offset=5.0)
    names = np.array(["alpha", "beta", "gamma", "delta"], dtype=object)
    fitted = clone(probe).fit(X, names[y])
    proba = fitted.predict_proba(X_test)
    assert list(fitted.classes_) == sorted(names[:k])
    assert proba.shape == (80 * k, k) and proba.dtype == np.float64
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    np.testing.assert_array_equal(fitted.predict(X_test), fitted.classes_[proba.argmax(axis=1)])
    assert fitted.score(X_test, names[y_test]) > 0.85


@each_probe
def test_same_seed_same_bits_and_the_seed_matters(probe: Any) -> None:
    X, y = planted(noise=2)
    first, again = (clone(probe).fit(X, y).predict_proba(X) for _ in range(2))
    other = clone(probe).set_params(random_state=7).fit(X, y)
    np.testing.assert_array_equal(first, again)
    reports = [p.sweep_ if isinstance(p, LinearProbe) else p.history_ for p in (clone(probe).fit(X, y), other)]
    assert not reports[0].equals(reports[1])


@each_probe
def test_constant_features_do_no_harm(probe: Any) -> None:
    X, y = planted()
    padded = np.concatenate([X, np.full((len(X), 3), [0.0, 1.0, 1e6], dtype=np.float32)], axis=1)
    with_constants = clone(probe).fit(padded, y)
    assert np.isfinite(with_constants.predict_proba(padded)).all()
    assert with_constants.score(padded, y) > 0.85


@each_probe
def test_from_constant_features_alone_come_the_shares_of_the_classes(probe: Any) -> None:
    y = np.repeat([0, 1], [60, 30])
    proba = clone(probe).fit(np.ones((90, 4)), y).predict_proba(np.ones((5, 4)))
    np.testing.assert_allclose(proba, np.tile([[2 / 3, 1 / 3]], (5, 1)), atol=0.05)


@each_probe
def test_a_class_may_be_missing_from_validation(probe: Any) -> None:
    X, y = planted()
    known = y[:60] != 2
    fitted = clone(probe).fit(X[60:], y[60:], X_val=X[:60][known], y_val=y[:60][known])
    assert list(fitted.classes_) == [0, 1, 2] and fitted.score(X, y) > 0.85


@each_probe
def test_more_features_than_rows(probe: Any) -> None:
    X, y = planted(60, d=150)
    assert clone(probe).fit(X, y).score(X, y) > 0.9


# --- the linear probe's sweep and optimum ---------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("l2", [0.03, 3.0, 300.0])
def test_optimum_is_that_of_scikit_learn(k: int, class_weight: str | None, l2: float) -> None:
    X, y = planted(300, k=k, noise=2, offset=3.0)
    keep = (y != 0) | (np.arange(300) % 3 == 0)  # unequal classes
    X, y = StandardScaler().fit_transform(X[keep].astype(float)), y[keep]
    theirs = LogisticRegression(C=1 / l2, class_weight=class_weight, tol=1e-9, max_iter=10_000).fit(X, y)
    for standardize in (True, False):
        ours = LinearProbe(l2=l2, class_weight=class_weight, standardize=standardize).fit(X, y)
        assert ours.converged_ and ours.coef_.shape == theirs.coef_.shape
        np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=2e-4)
        assert log_loss(y, ours.predict_proba(X)) == pytest.approx(log_loss(y, theirs.predict_proba(X)), abs=1e-5)
        np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X), atol=2e-3)


def test_every_value_of_the_path_is_an_optimum() -> None:
    X, y = planted(300, noise=2)
    X_val, y_val = planted(90, noise=2, seed=1)
    probe = LinearProbe(standardize=False).fit(*[X, y], X_val=X_val, y_val=y_val)
    assert probe.sweep_.converged.all()
    alone = [LinearProbe(l2=value, standardize=False).fit(X, y).predict_proba(X_val) for value in L2_VALUES[::4]]
    np.testing.assert_allclose(probe.sweep_.val_log_loss[::4], [log_loss(y_val, p) for p in alone], atol=1e-4)


@pytest.mark.parametrize("grid", [[1e4, 1.0, 1e-3], [5.0, 5.0, 5.0, 0.5], [100.0, 99.0, 0.01], [2.0, 1.0]])
@pytest.mark.parametrize(("n", "d"), [(900, 300), (350, 700)])  # several blocks of rows; more features than rows
def test_any_grid_ends_at_the_same_optima(grid: list[float], n: int, d: int) -> None:
    X, y = planted(n, d, noise=4)
    X = StandardScaler().fit_transform(X.astype(float))
    probe = LinearProbe(l2=grid, standardize=False).fit(X, y, X_val=X[:90], y_val=y[:90])
    theirs = [LogisticRegression(C=1 / value, tol=1e-8, max_iter=5000).fit(X, y) for value in sorted(grid)]
    losses = [log_loss(y[:90], one.predict_proba(X[:90])) for one in theirs]
    np.testing.assert_allclose(probe.sweep_.val_log_loss, losses, atol=1e-4)


def test_the_number_of_cores_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = planted(noise=2)
    several = LinearProbe(cv=3).fit(X, y)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    one = LinearProbe(cv=3).fit(X, y)
    pd.testing.assert_frame_equal(one.sweep_, several.sweep_, check_exact=True)
    np.testing.assert_array_equal(one.coef_, several.coef_)


def test_sweep_picks_a_sane_value_and_reports_it() -> None:
    X, y = planted(d=150, noise=1.5)
    probe = LinearProbe().fit(X, y)
    sweep = probe.sweep_
    assert list(sweep.columns) == ["l2", "val_log_loss", "val_accuracy", "converged"]
    np.testing.assert_allclose(sweep.l2, L2_VALUES)
    chosen = sweep[sweep.l2 == probe.l2_].iloc[0]
    assert chosen.val_log_loss <= sweep.val_log_loss.min() + 1e-4
    assert (sweep.val_log_loss[sweep.l2 > probe.l2_] > sweep.val_log_loss.min() + 1e-4).all()
    assert 1 < probe.l2_ < 1e4, "noise wants regularisation, signal wants not to be crushed"
    assert sweep.val_log_loss.iloc[0] > chosen.val_log_loss + 0.1
    assert sweep.val_log_loss.iloc[-1] == pytest.approx(np.log(3), abs=0.01)  # all but uniform
    assert sweep.val_accuracy.between(0, 1).all() and chosen.val_accuracy > 0.6
    assert probe.converged_ is True


def test_of_equal_strengths_the_strongest_wins() -> None:
    X, y = np.zeros((40, 2)), np.arange(40) % 2  # nothing to learn: every strength predicts one half
    assert LinearProbe(l2=(1.0, 100.0, 10.0), standardize=False).fit(X, y).l2_ == 100.0


def test_refit_uses_training_and_validation_rows() -> None:
    X, y = planted(noise=2)
    X_val, y_val = planted(120, noise=2, seed=1)
    probe = LinearProbe().fit(X, y, X_val=X_val, y_val=y_val)
    both = LinearProbe(l2=probe.l2_).fit(np.concatenate([X, X_val]), np.concatenate([y, y_val]))
    alone = LinearProbe(l2=probe.l2_).fit(X, y)
    np.testing.assert_array_equal(probe.coef_, both.coef_)
    assert not np.allclose(probe.coef_, alone.coef_)


def test_validation_rows_decide_the_strength() -> None:
    X, y = planted(noise=0.3)
    honest = LinearProbe().fit(X, y, X_val=X, y_val=y)
    shuffled = LinearProbe().fit(X, y, X_val=X, y_val=np.roll(y, 1))  # wrong labels: confidence must not pay
    assert honest.l2_ < 1 and shuffled.l2_ == L2_VALUES.max()


def test_single_strength_needs_no_validation() -> None:
    X, y = planted(6, k=3)
    sweep = LinearProbe(l2=2.0).fit(X[:3], y[:3]).sweep_  # one row per class: nothing could be cut off
    assert sweep.l2.tolist() == [2.0] and sweep.val_log_loss.isna().all() and sweep.converged.all()


def test_folds_average_over_every_row_and_keep_groups() -> None:
    X, y = planted(noise=2)
    twice, groups = np.concatenate([X, X]), np.tile(np.arange(len(X)), 2)
    by_group = LinearProbe(cv=4).fit(twice, np.tile(y, 2), groups=groups)
    leaky = LinearProbe(cv=4).fit(twice, np.tile(y, 2))
    assert by_group.sweep_.val_log_loss.min() > leaky.sweep_.val_log_loss.min() + 0.01
    assert by_group.l2_ > leaky.l2_


def test_class_weights_count_in_the_choice_too() -> None:
    X, y = planted(300, k=2, noise=4)
    keep = (y == 0) | (np.arange(300) % 20 == 1)
    plain = LinearProbe().fit(X[keep], y[keep])
    balanced = LinearProbe(class_weight="balanced").fit(X[keep], y[keep])
    assert (plain.predict(X) == 1).mean() < 0.1 < (balanced.predict(X) == 1).mean()


def test_stopping_early_is_said() -> None:
    X, y = planted(noise=2)
    with pytest.warns(ConvergenceWarning, match="raise max_iter"):
        probe = LinearProbe(l2=(1e-4, 1e-3), max_iter=2).fit(X, y)
    assert not probe.converged_ and not probe.sweep_.converged.any() and probe.n_iter_ == 2


# --- the MLP probe -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_mlp_keeps_the_best_epoch_and_predicts_as_it_trained(activation: str, class_weight: str | None) -> None:
    X, y = planted(noise=2)
    X_val, y_val = planted(91, noise=2, seed=1)
    probe = clone(QUICK_MLP).set_params(activation=activation, class_weight=class_weight, learning_rate=3e-2)
    probe.fit(X, y, X_val=X_val, y_val=y_val)
    history = probe.history_
    assert list(history.columns) == ["epoch", "train_log_loss", "val_log_loss", "val_accuracy"]
    assert probe.best_epoch_ == history.epoch[history.val_log_loss.idxmin()] < history.epoch.iloc[-1]
    assert len(history) == min(probe.best_epoch_ + probe.patience, probe.max_epochs)
    weight = np.ones(91) if class_weight is None else 331 / (3 * np.bincount(np.concatenate([y, y_val])))[y_val]
    reported = log_loss(y_val, probe.predict_proba(X_val), sample_weight=weight)
    assert history.val_log_loss.min() == pytest.approx(reported, rel=1e-5)
    assert history.val_accuracy[probe.best_epoch_ - 1] == pytest.approx(probe.score(X_val, y_val))


def test_mlp_learns_what_a_line_cannot() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 2)).astype(np.float32)
    y = (X[:, 0] * X[:, 1] > 0).astype(int)
    probe = MLPProbe(hidden=32, learning_rate=1e-2, max_epochs=60).fit(X[:300], y[:300])
    assert probe.score(X[300:], y[300:]) > 0.9
    assert LinearProbe().fit(X[:300], y[:300]).score(X[300:], y[300:]) < 0.7


def test_mlp_leaves_torch_as_it_was() -> None:
    X, y = planted(90)
    threads = torch.get_num_threads()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with torch.inference_mode():  # the caller may be in the middle of anything
        first = clone(QUICK_MLP).fit(X, y).predict_proba(X)
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == threads
    try:
        torch.set_num_threads(threads + 1)
        np.testing.assert_array_equal(clone(QUICK_MLP).fit(X, y).predict_proba(X), first)
        with pytest.raises(ValueError, match="not finite"):
            MLPProbe(learning_rate=1e30, max_epochs=5, standardize=False).fit(X * np.float32(1e30), y)
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)


# --- validation rows -----------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=2, max_size=80),
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 9),
)
def test_no_group_on_both_sides_and_every_class_in_training(
    rows: list[tuple[int, int]], fraction: float, seed: int
) -> None:
    y, groups = np.array(rows).T
    try:
        train, val = validation_split(y, groups, fraction, seed)
    except ValueError as error:
        assert "few groups" in str(error)
        # Rightly refused: without any one group, some class would be gone.
        assert all(set(y[groups == g]) - set(y[groups != g]) for g in np.unique(groups))
        return
    np.testing.assert_array_equal(np.sort(np.concatenate([train, val])), np.arange(len(y)))
    assert not set(groups[train]) & set(groups[val])
    assert set(y[train]) == set(y) and len(val)
    again = validation_split(y, groups, fraction, seed)
    assert np.array_equal(again[0], train) and np.array_equal(again[1], val)


def test_the_cut_is_stratified() -> None:
    y = np.repeat(["a", "b", "c"], [500, 100, 20])
    _, val = validation_split(y, None, 0.2, 0)
    assert {name: (y[val] == name).sum() for name in "abc"} == {"a": 100, "b": 20, "c": 4}
    groups = np.random.default_rng(0).integers(0, 200, 620) + 1000 * (y == "b") + 2000 * (y == "c")
    _, val = validation_split(y, groups, 0.2, 0)
    assert [(y[val] == name).mean() for name in "abc"] == pytest.approx([500 / 620, 100 / 620, 20 / 620], abs=0.02)
    assert len(val) == pytest.approx(124, abs=4)


def test_a_class_of_two_large_groups_is_in_both() -> None:
    train, val = validation_split([0] * 20 + [1] * 20, [0] * 9 + [1] * 11 + [2] * 8 + [3] * 12, 0.1, 0)
    assert len(train) == 23 and len(val) == 17


@each_probe
def test_groups_never_straddle_the_cut_of_fit(probe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = planted(120)
    groups = np.array([f"object {i}" for i in np.arange(120) // 5])
    cuts = []

    def spy(*args: Any) -> tuple[Array, Array]:
        cuts.append(validation_split(*args))
        return cuts[-1]

    monkeypatch.setattr(f"{type(probe).__module__}.validation_split", spy)
    clone(probe).fit(X, y, groups=groups)
    (train, val), *rest = cuts
    assert not rest and len(train) + len(val) == 120 and not set(groups[train]) & set(groups[val])


# --- bad input -----------------------------------------------------------------------------------------------------


@each_probe
def test_bad_input_is_refused_in_a_sentence(probe: Any) -> None:
    X, y = planted(30)
    broken = X.copy()
    broken[3, 1] = np.nan
    bad: list[tuple[dict[str, Any], str]] = [
        ({"X": broken}, "contains NaN"),
        ({"y": np.zeros(30, int)}, "y holds only one class, '0'"),
        ({"y": y[:-1]}, "inconsistent numbers of samples"),
        ({"groups": y[:-1]}, "inconsistent numbers of samples"),
        ({"X_val": X}, "belong together"),
        ({"X_val": X[:, :5], "y_val": y}, "5 features"),
        ({"X_val": X, "y_val": y + 1}, "class '3'"),
        ({"groups": y}, "give X_val and y_val"),
        ({"X": X.astype(float) * 1e200}, "whose squares overflow: scale the features"),
        ({"y": np.linspace(0, 1, 30)}, "Unknown label type"),
        ({"X": X[:0], "y": y[:0]}, "0 sample"),
        ({"X": X[:1], "y": y[:1]}, "only one class"),
    ]
    for change, message in bad:
        with pytest.raises(ArgumentError, match=message) as caught:
            clone(probe).fit(**{"X": X, "y": y, **change})
        assert "\n" not in str(caught.value)
    with pytest.raises(ArgumentError, match="random_state: 'x' cannot be used to seed"):
        clone(probe).set_params(random_state="x").fit(X, y)
    with pytest.raises(ValueError, match="validation_fraction"):
        clone(probe).set_params(validation_fraction=1.0).fit(X, y)
    with pytest.raises(ValueError, match="must be positive"):
        clone(probe).set_params(class_weight={0: 1, 1: 0, 2: 1}).fit(X, y)


def test_bad_parameters_are_refused_in_a_sentence() -> None:
    X, y = planted(30)
    for l2 in (-1.0, [], [1.0, 0.0], [[1.0]], np.nan):
        with pytest.raises(ValueError, match="positive numbers"):
            LinearProbe(l2=l2).fit(X, y)
    with pytest.raises(ValueError, match="one class"):
        LinearProbe(cv=2).fit(X, y, groups=y)
    for name in ("hidden", "batch_size", "max_epochs", "patience"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1"):
            MLPProbe(**{name: 0}).fit(X, y)
    with pytest.raises(ValueError, match="gelu, relu"):
        MLPProbe(activation="step").fit(X, y)


# --- folders -------------------------------------------------------------------------------------------------------


@each_probe
@pytest.mark.parametrize(
    "labels",
    [
        np.arange(2),
        np.array(["glioma", "no tumour \N{BRAIN}", "c"]),
        np.array(["b", "a", "c"], dtype=object),
        np.array([True, False]),
        np.array([0.0, 3.0, 7.0], dtype=np.float32),
    ],
    ids=["int", "str", "object", "bool", "float"],
)
def test_saved_and_loaded_probe_is_equal(probe: Any, labels: Array, tmp_path: Path) -> None:
    X, y = planted(90, k=len(labels))
    frame = pd.DataFrame(X, columns=[f"f{i}" for i in range(X.shape[1])])
    weights = {label: 1.0 + i for i, label in enumerate(labels)}
    fitted = clone(probe).set_params(class_weight=weights)
    if isinstance(probe, LinearProbe):
        fitted.set_params(l2=np.logspace(-1, 1, 3))
    fitted.fit(frame, labels[y])
    assert save_probe(fitted, tmp_path / "deep" / "probe") == tmp_path / "deep" / "probe"
    assert sorted(p.name for p in (tmp_path / "deep" / "probe").iterdir()) == ["probe.json", "probe.safetensors"]
    loaded = load_probe(tmp_path / "deep" / "probe")
    np.testing.assert_array_equal(loaded.predict_proba(frame), fitted.predict_proba(frame))
    np.testing.assert_array_equal(loaded.predict(frame), fitted.predict(frame))
    assert loaded.classes_.dtype == fitted.classes_.dtype
    for name, value in vars(fitted).items():
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(getattr(loaded, name), value)
        elif name.endswith("_"):
            np.testing.assert_array_equal(getattr(loaded, name), value, err_msg=name)
    again = clone(loaded).fit(frame, labels[y])  # the parameters came back as well
    np.testing.assert_array_equal(again.predict_proba(frame), fitted.predict_proba(frame))


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    X, y = planted(60)
    for name in "ab":
        save_probe(LinearProbe(l2=(1.0, 10.0)).fit(X, y), tmp_path / name)
    for file in ("probe.json", "probe.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_what_cannot_be_saved_says_so(tmp_path: Path) -> None:
    X, y = planted(60)
    with pytest.raises(NotFittedError):
        save_probe(LinearProbe(), tmp_path)
    with pytest.raises(CliplibError, match="not a LogisticRegression"):
        save_probe(LogisticRegression(), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(CliplibError, match="random_state"):
        save_probe(LinearProbe(l2=1.0, random_state=np.random.RandomState(0)).fit(X, y), tmp_path)
    with pytest.raises(CliplibError, match="neither numbers nor strings"):
        odd = LinearProbe(l2=1.0).fit(X, y)
        odd.classes_ = np.array([None, 1, "two"], dtype=object)
        save_probe(odd, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_probe_says_so(tmp_path: Path) -> None:
    X, y = planted(60)
    good = save_probe(LinearProbe(l2=1.0).fit(X, y), tmp_path / "good")
    document, arrays = (good / "probe.json").read_text("utf-8"), (good / "probe.safetensors").read_bytes()

    def refused(match: str | None, text: str = document, data: bytes = arrays) -> None:
        (good / "probe.json").write_text(text, "utf-8")
        (good / "probe.safetensors").write_bytes(data)
        with pytest.raises(CliplibError, match=match) as caught:
            load_probe(good)
        assert "good does not hold a probe saved by save_probe" in str(caught.value) and "\n" not in str(caught.value)

    def changed(**change: Any) -> str:
        return json.dumps({**json.loads(document), **change})

    for folder in (tmp_path / "absent", tmp_path):
        with pytest.raises(CliplibError, match="does not hold a probe"):
            load_probe(folder)
    refused("JSONDecodeError", document[:50])
    refused(None, "[]")
    refused("its format is", changed(format="cliplib-probe/9"))
    refused("KeyError", changed(kind="SVC"))
    refused("unexpected keyword", changed(params={"__class__": 1}))
    refused("sweep_", changed(learned={}))
    refused("fit_ missing or unknown", changed(learned={**json.loads(document)["learned"], "fit_": {"value": 1}}))
    learned = {**json.loads(document)["learned"], "n_features_in_": {"value": 5}}
    refused(None, changed(learned=learned))
    refused(None, data=arrays[:-20])
    refused(None, data=b"")
