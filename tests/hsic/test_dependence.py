"""The statistic: what it is under independence, what it finds, and what it cannot."""

import numpy as np
import pytest
import torch

from depgraph_hsic_only.hsic import hsic, hsic_system, nonnegative_lasso_path


def minus_distance(x: torch.Tensor) -> torch.Tensor:
    return -torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")


@pytest.mark.slow  # numba compiles dcor
@pytest.mark.filterwarnings("ignore")
def test_with_the_distance_as_kernel_it_is_the_distance_correlation() -> None:
    dcor = pytest.importorskip("dcor", reason="dcor is not installed")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 3)), rng.standard_normal((40, 2))
    y[:, 0] += x[:, 0] ** 2
    options = {"kernel_x": minus_distance, "kernel_y": minus_distance}
    unbiased = hsic(x, y, **options)
    assert unbiased == pytest.approx(dcor.u_distance_correlation_sqr(x, y), abs=1e-12)
    assert hsic(x, y, centering="biased", **options) == pytest.approx(dcor.distance_correlation_sqr(x, y), abs=1e-12)


def test_a_sample_depends_on_itself_and_on_nothing_constant() -> None:
    x = np.random.default_rng(0).standard_normal(20)
    assert hsic(x, x) == pytest.approx(1) and hsic(x, -3 * x + 1) == pytest.approx(1)
    assert hsic(x, np.ones(20)) == 0 and hsic(np.ones((20, 3)), x, centering="biased") == 0
    with pytest.raises(ValueError, match="hsic_system"):
        hsic(np.ones((20, 2, 2)), x)
    with pytest.raises(ValueError, match="empty"):
        hsic(np.ones((0, 2)), x)


@pytest.mark.parametrize("n", [20, 128])
@pytest.mark.parametrize("p", [1, 400])
def test_under_independence_the_unbiased_mean_is_zero_and_the_biased_has_a_floor(n: int, p: int) -> None:
    rng = np.random.default_rng(0)
    trials = 200 if n == 20 else 40
    X, y = rng.standard_normal((n, trials, p)).astype(np.float32), rng.standard_normal((n, p)).astype(np.float32)
    kernels = {"kernel_x": "gaussian_median", "kernel_y": "gaussian_median"}
    _, b = hsic_system(X, y, **kernels)
    assert abs(b.mean()) < 4 * b.std() / np.sqrt(trials) + 1e-3
    _, floor = hsic_system(X, y, centering="biased", **kernels)
    assert floor.mean() > (0.8 if p == 400 else 2 / n)


def first_selected(X: np.ndarray, y: np.ndarray, k: int) -> set[int]:
    A, b = hsic_system(X, y, block_size=0)
    return set(nonnegative_lasso_path(A, b).select(k))


def test_planted_dependence_is_found() -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 30))
    noise = 0.1 * rng.standard_normal(400)
    assert first_selected(X, X[:, 0] ** 2 + 2 * np.sin(2 * X[:, 1]) + noise, 2) == {0, 1}
    assert first_selected(X, X[:, 0] * X[:, 1] + noise, 2) == {0, 1}
    additive = -2 * np.sin(2 * X[:, 0]) + X[:, 1] ** 2 + X[:, 2] + np.exp(-X[:, 3])  # Yamada et al. 2014, section 5.1
    assert first_selected(X, additive + noise, 4) == {0, 1, 2, 3}
    assert first_selected(X, X[:, 0] * np.exp(2 * X[:, 1]) + X[:, 2] ** 2 + noise, 3) == {0, 1, 2}


def test_exclusive_or_is_seen_only_by_a_kernel_of_both_variables() -> None:
    rng = np.random.default_rng(0)
    X = rng.choice([-1.0, 1.0], (400, 10))
    y = X[:, 0] * X[:, 1]
    _, b = hsic_system(X, y, block_size=0)
    assert abs(b[:2]).max() < 0.02  # each alone is independent of y
    pairs = np.stack([X[:, [i, (i + 1) % 10]] for i in range(10)], axis=1)
    A, b = hsic_system(pairs, y, block_size=0)
    path = nonnegative_lasso_path(A, b)
    assert path.ranking()[0] == 0 and b[0] > 0.3 and np.sort(b)[-2] < 0.05


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_of_redundant_features_one_is_kept_where_marginal_relevance_keeps_both(noise: float) -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 12))
    y = 2 * X[:, 0] + X[:, 1] + 0.1 * rng.standard_normal(300)
    X[:, 6] = X[:, 0] + noise * rng.standard_normal(300)
    A, b = hsic_system(X, y, block_size=0)
    selected = nonnegative_lasso_path(A, b).select(2)
    assert len({0, 6} & set(selected)) == 1 and 1 in selected
    assert set(np.argsort(-b)[:2]) == {0, 6}  # marginal HSIC
