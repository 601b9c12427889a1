"""Kernels and centring against their definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from depgraph_hsic_only.hsic import center, hsic_system, kernel_names
from depgraph_hsic_only.hsic.kernels import resolve_kernel


def gram(kernel: str, x: np.ndarray) -> np.ndarray:
    """The Gram matrix of one feature (m, p)."""
    k = resolve_kernel(kernel)
    return k.gram(k.prepare(torch.from_numpy(x[:, None])).transpose(0, 1))[0].numpy()


def distances(x: np.ndarray) -> np.ndarray:
    return np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))


@pytest.mark.parametrize("p", [1, 3])
@pytest.mark.parametrize("m", [4, 5, 12])
def test_every_kernel_is_its_formula(m: int, p: int) -> None:
    x = np.random.default_rng(0).standard_normal((m, p)) * 3 + 7
    D = distances(x)
    np.testing.assert_allclose(gram("gaussian", x), np.exp(-((D / x.std()) ** 2) / (2 * p)), rtol=0, atol=1e-13)
    sigma = np.median(D[np.triu_indices(m, 1)])
    np.testing.assert_allclose(gram("gaussian_median", x), np.exp(-(D**2) / (2 * sigma**2)), rtol=0, atol=1e-13)
    z = x - x.mean(0)
    np.testing.assert_allclose(gram("linear", x), z @ z.T / z.var(), rtol=0, atol=1e-12)


def test_the_delta_kernel_weighs_a_class_by_its_size() -> None:
    expected = np.array([[1 / 2, 0, 1 / 2, 0], [0, 1, 0, 0], [1 / 2, 0, 1 / 2, 0], [0, 0, 0, 1]])
    np.testing.assert_array_equal(gram("delta", np.array([[3.0], [5.0], [3.0], [4.0]])), expected)
    rows = np.array([[3.0, 1.0], [3.0, 2.0], [3.0, 1.0], [0.0, 1.0]])  # several columns: equal where all of them are
    np.testing.assert_array_equal(gram("delta", rows), expected)


def test_the_median_bandwidth_leaves_coinciding_pairs_out_where_they_are_most() -> None:
    x = np.zeros((10, 1))
    x[:2, 0] = 1.0, 3.0
    D = distances(x)[np.triu_indices(10, 1)]
    assert np.median(D) == 0
    sigma = np.median(D[D > 0])
    np.testing.assert_allclose(gram("gaussian_median", x)[0, 5], np.exp(-1 / (2 * sigma**2)))


def test_distances_keep_their_digits_on_a_large_offset() -> None:
    x = np.random.default_rng(0).integers(0, 8, (64, 1)) / 8.0
    np.testing.assert_allclose(gram("gaussian", x + 2.0**40), gram("gaussian", x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", [lambda x: -torch.cdist(x, x), lambda a, b: -torch.cdist(a, b)])
def test_a_callable_of_one_or_of_two_arguments(kernel: object) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 4, 2)), rng.standard_normal(30)
    A, b = hsic_system(X, y, kernel_x=kernel, kernel_y=lambda x: x.numpy() @ x.numpy().T, block_size=10)
    assert np.linalg.eigvalsh(A)[0] > -1e-12 and np.allclose(np.diag(A), 1) and np.abs(b).max() <= 1


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("rbf", "gaussian, gaussian_median, linear, delta"),
        (7, "callable"),
        (lambda x: x, r"shape \(8, 1\)"),
        (lambda x: torch.arange(64.0).reshape(8, 8), "asymmetric"),
        (lambda x: torch.full((8, 8), torch.nan), "NaN"),
    ],
)
def test_a_wrong_kernel_is_refused(kernel: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hsic_system(np.random.default_rng(0).standard_normal((8, 3)), np.arange(8.0), kernel_x=kernel)
    assert kernel_names() == ("gaussian", "gaussian_median", "linear", "delta")


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 20), st.integers(0, 10**6))
def test_centring_identities(m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    K, L = (np.exp(-distances(rng.standard_normal((m, 2)))) for _ in range(2))
    H = np.eye(m) - 1 / m
    biased = center(torch.from_numpy(K), "biased").numpy()
    np.testing.assert_allclose(biased, H @ K @ H, rtol=0, atol=1e-13)
    U, V = (center(torch.from_numpy(G), "unbiased").numpy() for G in (K, L))
    for centred in (biased, U):
        np.testing.assert_allclose(centred.sum(1), 0, rtol=0, atol=1e-12)
    K0, L0 = K - np.diag(np.diag(K)), L - np.diag(np.diag(L))  # Song et al. (2012), eq. 5
    song = np.trace(K0 @ L0) + K0.sum() * L0.sum() / ((m - 1) * (m - 2)) - 2 / (m - 2) * (K0 @ L0).sum()
    assert (U * V).sum() == pytest.approx(song, abs=1e-12)


def test_what_cannot_be_centred_is_refused() -> None:
    with pytest.raises(ValueError, match="biased, unbiased"):
        center(torch.eye(5), "none")
    with pytest.raises(ValueError, match="at least 4 samples"):
        center(torch.eye(3), "unbiased")
    with pytest.raises(ValueError, match="Gram matrix"):
        center(torch.ones(3, 4))
