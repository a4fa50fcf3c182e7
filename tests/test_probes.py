"""The probes: they choose on validation rows, and repeat to the bit."""

from __future__ import annotations

import json
import re
import tracemalloc
from threading import Thread

import numpy as np
import pandas as pd
import pytest
import torch
from joblib import parallel_config
from scipy.linalg import block_diag
from scipy.special import softmax
from sklearn import config_context
from sklearn.base import clone
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from threadpoolctl import threadpool_info, threadpool_limits
from torch.nn.functional import cross_entropy

from cliplib.data.threads import one_thread
from cliplib.features.splits import fold_numbers, group_train_test_split
from cliplib.features.table import FeatureTable
from cliplib.probes.base import mean_log_loss
from cliplib.probes.kernel import GAMMA, LOGIT_SCALES, KernelProbe
from cliplib.probes.linear import TOL, TRIAL_TOL, LinearProbe
from cliplib.probes.logistic import (
    LogisticProblem,
    largest_curvatures,
    principal_axes,
)
from cliplib.probes.mlp import (
    BATCH_SIZE,
    DROPOUT,
    LEARNING_RATE,
    MAX_EPOCHS,
    PATIENCE,
    WEIGHT_DECAY,
    MLPProbe,
)
from cliplib.probes.nearest import nearest_neighbour
from cliplib.probes.out_of_fold import (
    fit_folds,
    out_of_fold_proba,
    predict_fits,
    rows_of_folds,
)
from cliplib.probes.saving import load_probe, save_probe

FAST = (
    LinearProbe(Cs=(0.01, 0.1, 1)),
    MLPProbe(hidden=16),
    KernelProbe(),
)
probes = pytest.mark.parametrize("probe", FAST, ids=["linear", "MLP", "kernel"])


@pytest.fixture(autouse=True)
def large_steps(monkeypatch):
    """Let networks of a few units learn small samples in a few epochs."""
    monkeypatch.setattr("cliplib.probes.mlp.LEARNING_RATE", 0.02)


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300)
    X = rng.normal(size=(300, 10)) + 1.5 * np.eye(3, 10)[y]
    return X.astype(np.float32), y


# The number of rows may decide in what order products are summed: then what the next
# test allows of float32 is too much for this check.
ROUNDED = "check_methods_subset_invariance"


@parametrize_with_checks(
    [
        LinearProbe(Cs=(0.1,)),
        MLPProbe(hidden=16),
        KernelProbe(),
    ]
)
def test_scikit_learns_contract(estimator, check):
    in_float32 = isinstance(estimator, KernelProbe | MLPProbe)
    if not (in_float32 and check.func.__name__ == ROUNDED):
        check(estimator)


@probes
def test_a_row_is_answered_alone_as_among_others(probe, sample):
    X, y = sample
    proba = probe.fit(X, y).predict_proba(X)
    alone = [probe.predict_proba(X[row : row + 1])[0] for row in range(20)]
    np.testing.assert_allclose(alone, proba[:20], atol=1e-3)


@probes
def test_it_learns_and_gives_probabilities(probe, sample):
    X, y = sample
    fitted = probe.fit(X[:200], y[:200])
    proba = fitted.predict_proba(X[200:])
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    assert (fitted.classes_[proba.argmax(axis=1)] == fitted.predict(X[200:])).all()
    assert fitted.score(X[200:], y[200:]) > 0.6


@probes
def test_labels_may_be_names(probe, sample):
    X, y = sample
    names = np.array(["glass", "metal", "paper"])[y]
    assert set(probe.fit(X, names).predict(X)) <= set(names)


@probes
def test_features_may_have_any_scale(probe, sample):
    X, y = sample
    plain = probe.fit(X, y).predict(X)
    scaled = probe.fit(X * 1000 + 50, y).predict(X * 1000 + 50)
    assert (plain == scaled).mean() > 0.99


@probes
def test_a_constant_feature_has_a_scale_of_one(probe, sample):
    X, y = sample
    X[:, 1] = 7
    fitted = clone(probe).fit(X, y)
    peer = StandardScaler().fit(X)
    np.testing.assert_allclose(fitted.mean_, peer.mean_, atol=1e-6)
    np.testing.assert_allclose(fitted.scale_, peer.scale_, rtol=1e-5)
    assert fitted.scale_[1] == 1
    assert np.isfinite(fitted.predict_proba(X)).all()


@probes
def test_features_of_any_type_are_read_as_float32(probe, sample):
    X, y = sample
    doubles = X + 1e-9 * np.random.default_rng(1).normal(size=X.shape)
    whole = np.rint(10 * X).astype(int)
    for given in (doubles, whole):
        found, expected = (
            clone(probe).fit(rows, y).predict_proba(X)
            for rows in (given, given.astype(np.float32))
        )
        assert (found == expected).all()


@probes
def test_the_order_of_features_in_memory_moves_no_bit(probe):
    X, y = large_sample()
    by_row, by_column = (
        clone(probe).fit(rows[:600], y[:600]).predict_proba(rows[600:])
        for rows in (X, np.asfortranarray(X))
    )
    np.testing.assert_array_equal(by_column, by_row)


def large_sample():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 900)
    X = rng.normal(size=(900, 1000)) + np.eye(3, 1000)[y]
    return X.astype(np.float32), y


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with threadpool_limits(2):
        yield
    torch.set_num_threads(before)


@probes
def test_the_same_seed_gives_the_same_bits_on_any_number_of_threads(probe, two_threads):
    X, y = large_sample()
    answers = []
    for number in (1, 2):
        torch.set_num_threads(number)  # of torch's own MKL, too
        torch.manual_seed(number)
        with threadpool_limits(number):
            answers.append(clone(probe).fit(X, y).predict_proba(X))
    assert (answers[0] == answers[1]).all()


@probes
def test_threads_of_one_process_do_not_disturb_each_other(probe, sample, two_threads):
    X, y = sample
    with parallel_config(backend="threading"):
        alone, together = (
            cross_val_predict(probe, X, y, cv=4, method="predict_proba", n_jobs=n_jobs)
            for n_jobs in (1, 4)
        )
    assert (alone == together).all()
    assert numbers_of_threads() == {2}


def test_another_thread_computes_with_one_thread_after_the_main_one_did(two_threads):
    with one_thread():  # from here on it is the one that threadpoolctl obeys
        pass
    inside = []

    def compute():
        with one_thread():
            inside.append(numbers_of_threads())

    thread = Thread(target=compute)
    thread.start()
    thread.join()
    assert inside == [{1}]
    assert numbers_of_threads() == {2}


def numbers_of_threads():
    blas = {
        pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"
    }
    # torch's own MKL has a number that nothing else tells.
    told = re.findall(
        r"(?:at::get_num|mkl_get_max)_threads\(\) : (\d+)",
        torch.__config__.parallel_info(),
    )
    return blas | set(map(int, told))


@probes
def test_threads_are_given_back(probe, sample, two_threads):
    X, y = sample
    probe.fit(X, y).predict_proba(X)
    assert numbers_of_threads() == {2}
    with pytest.raises(ValueError, match="group"):
        probe.fit(X, y, groups=np.zeros(300))  # fails within
    assert numbers_of_threads() == {2}


def test_the_callers_random_numbers_stay_as_they_were(sample):
    state = torch.get_rng_state()
    MLPProbe(hidden=16).fit(*sample)
    assert torch.equal(torch.get_rng_state(), state)


@probes
def test_a_saved_probe_predicts_the_same_bits(probe, sample, tmp_path):
    X, y = sample
    names = np.array(["glass", "metal", "paper"])[y]
    for labels in (y, names):
        fitted = probe.fit(X, labels)
        save_probe(fitted, tmp_path / "probe")
        loaded = load_probe(tmp_path / "probe")
        assert (loaded.predict_proba(X) == fitted.predict_proba(X)).all()
        assert (loaded.predict(X) == fitted.predict(X)).all()
    assert sorted(f.name for f in (tmp_path / "probe").iterdir()) == [
        "probe.json",
        "probe.safetensors",
    ]
    about = tmp_path / "probe" / "probe.json"
    document = json.loads(about.read_text())
    document["parameters"]["dropout"] = 0.2  # as an older version had it
    if "logit_scale_" in document["fitted"]:
        document["fitted"]["sharpness_"] = document["fitted"].pop("logit_scale_")
    about.write_text(json.dumps(document))
    loaded = load_probe(tmp_path / "probe")
    assert (loaded.predict_proba(X) == fitted.predict_proba(X)).all()


@probes
def test_a_loaded_probe_has_all_that_a_fitted_one_has(probe, sample, tmp_path):
    X, y = sample
    frame = pd.DataFrame(X).add_prefix("feature ")
    probe = clone(probe).set_params(seed=np.int64(3))
    folder = tmp_path / "new" / "probe"
    save_probe(probe.fit(frame, y), folder)
    loaded = load_probe(folder)
    fitted = {name: value for name, value in vars(probe).items() if name != "sweep_"}
    assert vars(loaded).keys() == fitted.keys()
    for name, value in fitted.items():
        np.testing.assert_array_equal(getattr(loaded, name), value)
    again = clone(loaded).fit(frame, y)
    assert (again.predict_proba(frame) == probe.predict_proba(frame)).all()


@probes
def test_one_class_is_refused_by_name(probe, sample):
    with pytest.raises(ValueError, match="All labels are of one class, 'glass'"):
        probe.fit(sample[0], np.full(300, "glass"))


def test_the_sweep_is_that_of_logistic_regression(sample):
    X, y = sample
    probe = LinearProbe(Cs=(1, 0.01)).fit(
        X[:200], y[:200], X_val=X[200:], y_val=y[200:]
    )
    scaled = StandardScaler().fit(X[:200]).transform(X).astype(float)
    for row in probe.sweep_.itertuples():
        peer = LogisticRegression(C=row.C, max_iter=1000, tol=1e-6)
        proba = peer.fit(scaled[:200], y[:200]).predict_proba(scaled[200:])
        loss = -np.log(proba[np.arange(100), y[200:]]).mean()
        assert row.log_loss == pytest.approx(loss, abs=1e-4)
    assert probe.sweep_.C.tolist() == [0.01, 1]


def test_the_sweep_of_few_rows_is_at_the_minimum_by_default():
    rng = np.random.default_rng(0)
    y = np.arange(80) // 2 % 4
    turned = np.linalg.qr(rng.normal(size=(1000, 1000)))[0]
    X = (rng.normal(size=(80, 1000)) / np.arange(1, 1001)) @ turned
    X = np.float32(X + 0.005 * rng.normal(size=(4, 1000))[y])
    probe = LinearProbe(Cs=(0.1, 10)).fit(X[::2], y[::2], X_val=X[1::2], y_val=y[1::2])
    scaler = StandardScaler().fit(X[::2])
    for row in probe.sweep_.itertuples():
        peer = LogisticRegression(C=row.C, max_iter=10_000, tol=1e-8)
        peer.fit(scaler.transform(X[::2]), y[::2])
        loss = log_loss(y[1::2], peer.predict_proba(scaler.transform(X[1::2])))
        assert row.log_loss == pytest.approx(loss, abs=5e-3)


def test_the_linear_probe_gets_to_the_minimum_of_features_that_go_together(monkeypatch):
    monkeypatch.setattr("cliplib.probes.linear.TOL", 1e-5)
    rng = np.random.default_rng(0)
    spectrum, y = 1 / np.arange(1, 401), rng.integers(0, 2, 300)
    turned = np.linalg.qr(rng.normal(size=(400, 400)))[0]
    X = ((rng.normal(size=(300, 400)) + y[:, None]) * spectrum @ turned).astype(
        np.float32
    )
    probe = LinearProbe(Cs=(0.1,)).fit(X, y)
    scaled = StandardScaler().fit_transform(X)
    # Of two classes scikit-learn penalises the weights' difference, half as much.
    peer = LogisticRegression(C=0.2, tol=1e-8, max_iter=10_000).fit(scaled, y)
    np.testing.assert_allclose(
        probe.predict_proba(X), peer.predict_proba(scaled), atol=5e-4
    )


def test_the_chosen_probe_is_fitted_again_on_all_rows(sample):
    X, y = sample
    probe = LinearProbe(Cs=(0.1,)).fit(X[:200], y[:200], X_val=X[200:], y_val=y[200:])
    scaler = StandardScaler().fit(X)
    peer = LogisticRegression(C=0.1, max_iter=1000).fit(scaler.transform(X), y)
    expected = peer.predict_proba(scaler.transform(X))
    np.testing.assert_allclose(probe.predict_proba(X), expected, atol=1e-3)


def test_of_equal_losses_the_strongest_regularisation_wins(sample):
    X, y = sample
    probe = LinearProbe(Cs=(1e-10, 1e-9, 1e-8)).fit(X, y)
    assert np.ptp(probe.sweep_.log_loss) < 1e-4
    assert probe.C_ == 1e-10


def test_the_chosen_c_is_the_best_on_validation_rows(sample):
    X, y = sample
    validation = {"X_val": X[200:], "y_val": y[200:]}
    Cs = (1e-4, 0.01, 0.1, 100)
    probe = LinearProbe(Cs=Cs).fit(X[:200], y[:200], **validation)
    scaler = StandardScaler().fit(X[:200])
    losses = []
    for C in Cs:
        peer = LogisticRegression(C=C, max_iter=1000)
        peer.fit(scaler.transform(X[:200]), y[:200])
        losses.append(log_loss(y[200:], peer.predict_proba(scaler.transform(X[200:]))))
    assert 0 < np.argmin(losses) < 3
    assert Cs.index(probe.C_) == np.argmin(losses)


def test_the_sweep_ends_where_weaker_regularisation_is_worse(sample):
    X, y = sample
    sweep = LinearProbe(Cs=np.logspace(-3, 4, 15)).fit(X, y).sweep_
    losses = sweep.log_loss.to_numpy()
    assert 2 < len(sweep) < 15
    assert losses[-1] > losses.min() + 1e-4
    best_so_far = np.minimum.accumulate(losses)
    assert (losses[:-1] <= best_so_far[:-1] + 1e-4).all()
    assert sweep.C.tolist() == np.logspace(-3, 4, 15)[: len(sweep)].tolist()


def test_the_chosen_logit_scale_is_the_best_on_validation_rows(sample, monkeypatch):
    X, y = sample
    grid = (0.5, 2, 4, 24)
    monkeypatch.setattr("cliplib.probes.kernel.LOGIT_SCALES", grid)
    probe = KernelProbe()
    probe.fit(X[:200], y[:200], X_val=X[200:], y_val=y[200:])
    scaled = StandardScaler().fit_transform(X)
    peer = KernelRidge(alpha=0.01, kernel="rbf", gamma=0.6 / 10)
    scores = peer.fit(scaled[:200], np.eye(3)[y[:200]]).predict(scaled[200:])
    losses = [log_loss(y[200:], softmax(factor * scores, axis=1)) for factor in grid]
    assert 0 < np.argmin(losses) < 3
    assert grid.index(probe.logit_scale_) == np.argmin(losses)


@pytest.fixture
def inner_splits(monkeypatch):
    """Rows (train, held out) of each inner split that a probe draws."""
    drawn = []

    def draw(*args, **kwargs):
        drawn.append(group_train_test_split(*args, **kwargs))
        return drawn[-1]

    monkeypatch.setattr("cliplib.probes.base.group_train_test_split", draw)
    return drawn


@probes
def test_groups_reach_the_inner_split(probe, sample, inner_splits):
    X, y = sample
    groups = np.arange(300) // 5
    probe.fit(X, y, groups=groups)
    assert inner_splits
    for train, held_out in inner_splits:
        assert not np.isin(groups[held_out], groups[train]).any()


@probes
def test_the_seed_draws_the_held_out_fifth(probe, sample, inner_splits):
    for seed in (7, 8, 9, 7):
        clone(probe).set_params(seed=seed).fit(*sample)
    held_out = [tuple(rows) for _, rows in inner_splits]
    assert len(held_out) == 4 and held_out[0] == held_out[3]
    assert len(set(held_out)) == 3
    assert all(50 < len(rows) < 70 for rows in held_out)


def test_copies_do_not_stand_on_both_sides_of_the_validation_cut(sample):
    X, y = sample
    rng = np.random.default_rng(0)
    noise, labels = rng.normal(size=(200, 400)), rng.integers(0, 2, 200)
    groups = np.arange(400) % 200
    X, y = np.tile(noise, (2, 1)), np.tile(labels, 2)
    by_row = LinearProbe().fit(X, y).sweep_.accuracy.max()
    by_group = LinearProbe().fit(X, y, groups=groups).sweep_.accuracy.max()
    assert by_row > by_group + 0.1


def test_the_mlp_keeps_the_epoch_of_the_smallest_validation_loss(sample, monkeypatch):
    X, y = sample
    losses = []
    for epochs in (1, 2, 4, 8, 60):
        monkeypatch.setattr("cliplib.probes.mlp.MAX_EPOCHS", epochs)
        probe = MLPProbe(hidden=64)
        probe.fit(X[:200], y[:200], X_val=X[200:], y_val=y[200:])
        losses.append(log_loss(y[200:], probe.predict_proba(X[200:])))
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1]


def test_the_mlp_waits_for_a_better_epoch_as_long_as_it_is_patient(sample, monkeypatch):
    X, y = sample
    losses = []
    monkeypatch.setattr("cliplib.probes.mlp.LEARNING_RATE", 5e-3)
    monkeypatch.setattr("cliplib.probes.mlp.BATCH_SIZE", 16)
    for patience in (1, 2, 4):
        probe = MLPProbe(hidden=8)
        monkeypatch.setattr("cliplib.probes.mlp.PATIENCE", patience)
        probe.fit(X[:200], y[:200], X_val=X[200:], y_val=y[200:])
        losses.append(log_loss(y[200:], probe.predict_proba(X[200:])))
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[1] + 0.005


def test_dropout_helps_on_few_rows(sample, monkeypatch):
    X, y = sample
    losses = []
    for dropout in (0, 0.8):
        monkeypatch.setattr("cliplib.probes.mlp.DROPOUT", dropout)
        probe = MLPProbe(hidden=64)
        probe.fit(X[:200], y[:200], X_val=X[200:], y_val=y[200:])
        losses.append(log_loss(y[200:], probe.predict_proba(X[200:])))
    assert losses[0] > losses[1] + 0.02


def test_a_network_starts_as_torchs_own_layers_do(sample, monkeypatch):
    X, y = sample
    # A step too small to move anything.
    monkeypatch.setattr("cliplib.probes.mlp.LEARNING_RATE", 1e-12)
    monkeypatch.setattr("cliplib.probes.mlp.MAX_EPOCHS", 1)
    probe = MLPProbe(hidden=400).fit(X, y)
    for weights, fan_in in ((probe.hidden_coef_, 10), (probe.coef_, 400)):
        assert np.abs(weights).max() == pytest.approx(fan_in**-0.5, rel=0.01)
        assert weights.std() == pytest.approx((3 * fan_in) ** -0.5, rel=0.05)


def test_each_row_is_seen_once_an_epoch(sample, monkeypatch):
    X, y = sample
    seen = []

    def noting(logits, targets, *rest):
        if logits.requires_grad:
            seen.append(len(targets))
        return cross_entropy(logits, targets, *rest)

    monkeypatch.setattr("cliplib.probes.mlp.F.cross_entropy", noting)
    monkeypatch.setattr("cliplib.probes.mlp.BATCH_SIZE", 64)
    monkeypatch.setattr("cliplib.probes.mlp.MAX_EPOCHS", 3)
    probe = MLPProbe(hidden=8)
    probe.fit(X[:200], y[:200], X_val=X[200:], y_val=y[200:])
    assert seen == [64, 64, 64, 8] * 3


def test_a_network_that_only_diverges_is_told(sample, monkeypatch):
    monkeypatch.setattr("cliplib.probes.mlp.LEARNING_RATE", 1e30)
    with pytest.raises(ValueError, match="loss is not finite after any epoch"):
        MLPProbe().fit(*sample)


@probes
def test_gradients_are_the_slopes_of_logits(probe, sample):
    X, y = sample
    X = 3 * X + 5  # so that standardisation counts
    probe.fit(X, y)
    step = 3e-2 * np.random.default_rng(0).normal(size=X.shape).astype(np.float32)
    change = probe.logits(X + step / 2) - probe.logits(X - step / 2)
    slopes = probe.logit_gradients(X, y)
    assert slopes.shape == X.shape and slopes.dtype == np.float32
    expected = (slopes * step).sum(axis=1)
    assert np.abs(expected).max() > 0.02
    np.testing.assert_allclose(change[np.arange(300), y], expected, atol=5e-4)


@probes
def test_gradients_of_an_unknown_class_are_refused(probe, sample):
    X, y = sample
    probe.fit(X, y)
    with pytest.raises(ValueError, match=r"unseen labels: \[.*5"):
        probe.logit_gradients(X, np.where(y == 1, 5, y))


def test_the_mlp_solves_what_no_straight_cut_can():
    X = np.random.default_rng(0).uniform(-1, 1, (600, 2)).astype(np.float32)
    y = (X[:, 0] * X[:, 1] > 0).astype(int)
    assert LinearProbe().fit(X[:400], y[:400]).score(X[400:], y[400:]) < 0.65
    for probe in (MLPProbe(), KernelProbe()):
        assert probe.fit(X[:400], y[:400]).score(X[400:], y[400:]) > 0.9


def test_the_kernel_probe_is_regularised_least_squares(sample):
    X, y = sample
    probe = KernelProbe(alpha=0.1)
    probe.fit(X[:200], y[:200], X_val=X[200:], y_val=y[200:])
    scaled = StandardScaler().fit_transform(X)
    peer = KernelRidge(alpha=0.1, kernel="rbf", gamma=0.06)
    peer.fit(scaled, np.eye(3)[y])
    expected = probe.logit_scale_ * peer.predict(scaled)
    np.testing.assert_allclose(probe.logits(X), expected, atol=1e-3)


def test_settings_without_a_solution_are_refused():
    for Cs in ((), (0,), (1, -1)):
        with pytest.raises(ValueError, match="must be positive numbers, one at least"):
            LinearProbe(Cs=Cs).fit(np.eye(10), np.arange(10) % 2)
    with pytest.raises(ValueError, match="alpha=0 is too small for rows as alike"):
        KernelProbe(alpha=0).fit(np.ones((10, 2)), np.arange(10) % 2)
    with pytest.raises(ValueError, match="hidden=0 must be a whole number, 1 at least"):
        MLPProbe(hidden=0).fit(np.eye(10), np.arange(10) % 2)


def test_far_from_all_that_it_knows_the_kernel_probe_is_unsure(sample):
    X, y = sample
    np.testing.assert_allclose(KernelProbe().fit(X, y).predict_proba(X + 1000), 1 / 3)


def test_a_kernel_beyond_memory_is_refused(sample, monkeypatch):
    X, y = sample
    with pytest.raises(ValueError, match="of 100,000 rows needs about 52 GB"):
        KernelProbe().fit(np.zeros((100_000, 1)), np.arange(100_000) % 2)
    monkeypatch.setattr("cliplib.probes.kernel.MAX_ROWS", 299)
    with pytest.raises(ValueError, match="LinearProbe, or at most 299 rows"):
        KernelProbe().fit(X, y)
    monkeypatch.setattr("cliplib.probes.kernel.MAX_ROWS", 300)
    KernelProbe().fit(X, y)


def peak_memory(action):
    """Bytes that an action takes at most, beside what is there before it."""
    tracemalloc.start()
    action()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_a_linear_probe_takes_little_more_than_its_features_three_times(monkeypatch):
    monkeypatch.setattr("cliplib.probes.base.VALUES_AT_ONCE", 200_000)
    rng = np.random.default_rng(0)
    y = np.arange(3000) % 3
    X = rng.normal(size=(3000, 700)).astype(np.float32)
    probe = LinearProbe(Cs=(1e-3, 1e-2))
    peak = peak_memory(lambda: probe.fit(X, y).predict_proba(X))
    assert 1 + peak / X.nbytes < 3.5


@probes
def test_rows_are_answered_in_parts_as_at_once(probe, sample, monkeypatch):
    X, y = sample
    at_once = probe.fit(X, y).logits(X)
    monkeypatch.setattr("cliplib.probes.base.VALUES_AT_ONCE", 170)
    np.testing.assert_allclose(probe.logits(X), at_once, atol=1e-3)


@pytest.mark.parametrize("names", [False, True])
def test_the_nearest_neighbour_is_the_most_similar_training_row(names, sample):
    X, y = sample
    labels = np.array(["glass", "metal", "paper"])[y] if names else y
    nearest = nearest_neighbour().fit(X[:200], labels[:200])
    scaler = StandardScaler().fit(X[:200])
    similarity = cosine_similarity(scaler.transform(X[200:]), scaler.transform(X[:200]))
    expected = labels[:200][similarity.argmax(axis=1)]
    assert nearest.predict(X[200:]).tolist() == expected.tolist()
    proba = nearest.predict_proba(X[200:])
    assert (proba == (expected[:, None] == nearest.classes_)).all()


def test_the_nearest_neighbour_in_folds_is_of_another_fold(sample):
    X, y = sample
    groups = np.arange(300) // 2
    table = FeatureTable.from_arrays(X, y, classes=["a", "b", "c"])
    proba = out_of_fold_proba(nearest_neighbour(), table, groups=groups, n_splits=3)
    similarity = cosine_similarity(StandardScaler().fit_transform(X))
    folds = fold_numbers(y, groups, n_splits=3)
    similarity[folds[:, None] == folds] = -2
    expected = y[similarity.argmax(axis=1)]
    share = (proba.argmax(axis=1) == expected).mean()
    assert 0.9 < share <= 1  # folds are standardised each by its own rows
    assert set(np.unique(proba)) == {0, 1}


def test_a_kernel_probe_takes_the_memory_that_its_refusal_names():
    y = np.arange(1200) % 2
    X = np.random.default_rng(0).normal(size=(1200, 8)).astype(np.float32)
    kernels = peak_memory(lambda: KernelProbe().fit(X, y)) / (4 * 1200**2)
    assert 1.1 < kernels < 1.35  # 1.3, rounded up, is what is said


def test_blocks_do_not_move_loss_and_gradient(monkeypatch):
    # Seven blocks, the last of which is smaller.
    monkeypatch.setattr("cliplib.probes.logistic.BLOCK_PRODUCTS", 500_000)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(700, 900)).astype(np.float32)
    codes = rng.integers(0, 5, 700)
    problem = LogisticProblem(rows, codes, principal_axes(rows))
    found = problem.minimize(0.01, np.zeros((5, 901)), 1e-6)
    scores = rows @ found[:, :-1].T + found[:, -1]
    residuals = softmax(scores, 1) - np.eye(5)[codes]
    slopes = residuals.T @ rows / 700 + found[:, :-1] / (0.01 * 700)
    np.testing.assert_allclose(slopes, 0, atol=1e-5)
    np.testing.assert_allclose(residuals.mean(axis=0), 0, atol=1e-5)


def test_curvatures_are_those_of_the_loss_at_its_steepest():
    rng = np.random.default_rng(0)
    rows = np.float32(rng.normal(size=(500, 6)) * [30, 10, 3, 1, 1, 1])
    axes = np.linalg.svd(rows, full_matrices=False)[2]
    directions = block_diag(axes, 1)
    extended = np.column_stack([rows, np.ones(500)])
    hessian = extended.T @ extended / 500 / 4  # p (1 - p) = 1 / 4
    expected = np.diag(directions @ hessian @ directions.T)
    found = largest_curvatures(rows, axes)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_principal_axes_are_the_first_ones():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 40)) * np.arange(40, 0, -1)
    rows = np.float32(rows - rows.mean(axis=0))
    axes = principal_axes(rows)
    assert axes.shape == (16, 40)
    expected = np.linalg.svd(rows, full_matrices=False)[2][:3]
    np.testing.assert_allclose(np.abs(axes[:3] @ expected.T), np.eye(3), atol=0.02)
    assert principal_axes(rows[:, :8]).shape == (8, 8)
    assert (principal_axes(rows) == axes).all()
    few = rng.normal(size=(39, 400)).astype(np.float32)
    assert principal_axes(few).shape == (39, 400)


@pytest.mark.parametrize("n", [30, 300])  # fewer than a fourth of 400, and more
def test_the_minimum_is_that_of_scikit_learn(n):
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    rows = rng.normal(size=(n, 400)) + rng.normal(size=(3, 400))[y] / 4
    rows = np.float32((rows - rows.mean(axis=0)) / rows.std(axis=0))
    problem = LogisticProblem(rows, y, principal_axes(rows))
    start = rng.normal(size=(3, 401))  # also at right angles to all rows
    found = problem.minimize(0.1, start, 1e-7)
    expected = LogisticRegression(C=0.1, tol=1e-8, max_iter=9999)
    expected.fit(rows, y)
    np.testing.assert_allclose(found[:, :-1], expected.coef_, atol=1e-4)


def test_a_class_of_the_validation_rows_alone_is_refused(sample):
    X, y = sample
    known = y[:200] != 1
    with pytest.raises(ValueError, match=r"unseen labels: \[.*1"):
        LinearProbe().fit(X[:200][known], y[:200][known], X_val=X[200:], y_val=y[200:])


@probes
def test_validation_rows_may_lack_a_class(probe, sample):
    X, y = sample
    two = y[200:] != 1
    probe = clone(probe).fit(X[:200], y[:200], X_val=X[200:][two], y_val=y[200:][two])
    assert probe.score(X[200:], y[200:]) > 0.6  # with the class that was not chosen on


@probes
def test_validation_rows_that_do_not_fit_are_refused(probe, sample):
    X, y = sample
    X_val = X.copy()
    X_val[7, 3] = np.nan
    for rows, labels, sentence in (
        (X_val, y, "contains NaN"),
        (X[:, :9], y, "X has 9 features"),
        (X, y[:-1], r"\[300, 299\]"),
        (X, None, "requires y"),
    ):
        with pytest.raises(ValueError, match=sentence):
            probe.fit(X, y, X_val=rows, y_val=labels)


def test_groups_of_another_length_are_refused_beside_validation_rows(sample):
    X, y = sample
    with pytest.raises(ValueError, match=r"\[300, 3\]"):
        LinearProbe().fit(X, y, groups=[1, 2, 3], X_val=X, y_val=y)


def test_validation_columns_in_another_order_are_refused(sample):
    X, y = sample
    table = pd.DataFrame(X, columns=[*"abcdefghij"])
    with pytest.raises(ValueError, match="names must be in the same order"):
        LinearProbe().fit(table, y, X_val=table[[*"bacdefghij"]], y_val=y)
    LinearProbe(Cs=(0.1,)).fit(table, y, X_val=table, y_val=y)


def test_defaults_are_those_that_published_numbers_were_made_with():
    linear = {"Cs": tuple(np.logspace(-5, 1, 7))}
    kernel = {"alpha": 0.01}
    common = {"seed": 0}
    assert LinearProbe().get_params() == common | linear
    assert KernelProbe().get_params() == common | kernel
    assert MLPProbe().get_params() == common | {"hidden": 128}
    assert (TOL, TRIAL_TOL) == (3e-5, 9e-5)
    assert (GAMMA, LOGIT_SCALES) == (0.6, (4, 6, 8, 12, 16, 24))
    assert (LEARNING_RATE, WEIGHT_DECAY, DROPOUT) == (1e-3, 1e-2, 0.2)
    assert (BATCH_SIZE, PATIENCE, MAX_EPOCHS) == (256, 4, 200)


@pytest.mark.parametrize("probe", [KernelProbe(), nearest_neighbour()])
def test_a_fold_is_standardised_by_its_training_rows_alone(sample, probe):
    X, y = sample
    shifted = X.copy()
    fold = np.arange(300) % 3
    shifted[fold == 0] += 1000  # these rows would change a mean over all
    table = FeatureTable.from_arrays(shifted, y, classes=["a", "b", "c"])
    proba = predict_fits(fit_folds(probe, table, rows_of_folds(fold)), table)
    train = fold != 0
    alone = clone(probe).fit(shifted[train], y[train])
    np.testing.assert_allclose(proba[~train], alone.predict_proba(shifted[~train]))


def test_a_probe_in_a_pipeline_gets_groups(sample):
    X, y = sample
    groups = np.arange(300) // 2
    table = FeatureTable.from_arrays(X, y, classes=["a", "b", "c"])
    options = {"groups": groups, "n_splits": 3}
    pipeline = make_pipeline(StandardScaler(), LinearProbe())
    proba = out_of_fold_proba(pipeline, table, **options)
    expected = out_of_fold_proba(LinearProbe(), table, **options)
    np.testing.assert_allclose(proba, expected, atol=1e-3)


def test_groups_that_scikit_learn_would_keep_from_fit_are_refused(sample):
    X, y = sample
    groups = np.arange(300) // 2
    with pytest.raises(ValueError, match="keep these groups from fit"):
        cross_val_predict(LinearProbe(), X, y, groups=groups, cv=GroupKFold(3))
    search = GridSearchCV(LinearProbe(), {"seed": [0]}, cv=GroupKFold(3))
    with pytest.raises(ValueError, match="keep these groups from fit"):
        search.fit(X, y, groups=groups)
    cross_val_predict(LinearProbe(), X, y, cv=3)


def test_a_variable_of_the_users_own_is_not_taken_for_scikit_learns(sample):
    def fit():
        return LinearProbe().fit(*sample)

    def call_fit():
        return fit()

    routed_params = {"splitter": {"split": {"groups": sample[1]}}}
    assert call_fit() and routed_params


def test_groups_that_scikit_learn_routes_reach_the_inner_split(sample, inner_splits):
    X, y = sample
    params = {"groups": np.arange(300) // 2}
    with config_context(enable_metadata_routing=True):
        cross_val_predict(KernelProbe(), X, y, params=params, cv=GroupKFold(3))
        search = GridSearchCV(KernelProbe(), {"seed": [0]}, cv=GroupKFold(3))
        search.fit(X, y, **params)
    assert len(inner_splits) == 7
    for _, held_out in inner_splits:
        assert len(held_out) % 2 == 0  # whole groups of two rows
        assert (held_out[::2] + 1 == held_out[1::2]).all()


@pytest.mark.parametrize("k", [2, 3])
def test_answers_have_scikit_learns_further_forms(sample, k):
    X, y = sample
    X, y = X[y < k], y[y < k]
    probe = KernelProbe().fit(X, y)
    decisions = probe.decision_function(X)
    assert decisions.shape == ((len(X),) if k == 2 else (len(X), 3))
    named = decisions > 0 if k == 2 else decisions.argmax(axis=1)
    assert (probe.classes_[named.astype(int)] == probe.predict(X)).all()


def test_log_loss_is_that_of_scikit_learn_and_refuses_what_is_not_finite() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 3))
    classes = np.arange(50) % 3
    expected = log_loss(classes, softmax(logits, axis=1))
    assert mean_log_loss(classes, logits) == pytest.approx(expected, rel=1e-12)
    logits[0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        mean_log_loss(classes, logits)
