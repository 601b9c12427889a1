"""The system (A, b): its definition, its invariances, and what becomes of degenerate input."""

import numpy as np
import pytest
import torch

from depgraph_hsic_only.hsic import center, hsic_system, nonnegative_lasso_path


def sample(n: int = 60, d: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) @ rng.standard_normal((d, d))
    return X, X[:, 0] ** 2 + X[:, 1] + 0.1 * rng.standard_normal(n)


def gaussian(x: np.ndarray) -> np.ndarray:
    x = x.reshape(len(x), -1)
    return np.exp(-((x[:, None] - x[None]) ** 2).sum(-1) / (2 * x.shape[1]))


def by_definition(
    X: np.ndarray, y: np.ndarray, block: int, permutations: int, centering: str
) -> tuple[np.ndarray, ...]:
    """(A, b) from the tall matrix of vectorised Gram matrices: n²·d numbers, float64, as pyHSICLasso builds it."""
    n, d = X.shape[:2]
    X = X / X.reshape(n, d, -1).std(axis=(0, 2)).reshape(1, d, *[1] * (X.ndim - 2))
    y = y / y.std()
    columns, target, order = [], [], np.arange(n)
    B = block or n
    for m in range(permutations if n // B > 1 else 1):
        np.random.seed(m)
        order = np.random.permutation(order)
        for start in range(0, n - n % B, B):
            i = order[start : start + B]
            grams = [center(torch.from_numpy(gaussian(v[i])), centering).numpy() for v in [*X.swapaxes(0, 1), y]]
            grams = [G / np.linalg.norm(G) for G in grams]
            columns.append(np.array([G.ravel() for G in grams[:-1]]))
            target.append(grams[-1].ravel())
    K, L = np.concatenate(columns, axis=1) / np.sqrt(len(target)), np.concatenate(target) / np.sqrt(len(target))
    return K @ K.T, K @ L


@pytest.mark.parametrize("centering", ["biased", "unbiased"])
@pytest.mark.parametrize(("block", "permutations"), [(0, 3), (20, 1), (20, 3), (23, 2), (31, 2), (60, 2)])
@pytest.mark.parametrize("columns", [1, 3])
def test_the_system_is_its_definition(centering: str, block: int, permutations: int, columns: int) -> None:
    rng = np.random.default_rng(1)
    X, _ = sample(62, 5) if columns == 1 else (rng.standard_normal((62, 5, columns)) * 5 + 3, None)
    y = rng.standard_normal((62, columns)) + X.reshape(62, 5, -1)[:, 0]
    state = np.random.get_state()[1].copy()
    A, b = hsic_system(X, y, centering=centering, block_size=block, permutations=permutations)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # the global generator is not touched
    expected_A, expected_b = by_definition(X, y, block, permutations, centering)
    np.testing.assert_allclose(A, expected_A, rtol=0, atol=1e-12)
    np.testing.assert_allclose(b, expected_b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("centering", ["biased", "unbiased"])
@pytest.mark.parametrize("kernel", ["gaussian", "gaussian_median", "linear"])
def test_a_gram_matrix_with_unit_diagonal(kernel: str, centering: str) -> None:
    X, y = sample(d=40)
    A, b = hsic_system(X, y, kernel_x=kernel, centering=centering, block_size=20, permutations=2)
    np.testing.assert_array_equal(A, A.T)
    np.testing.assert_allclose(np.diag(A), 1, rtol=0, atol=1e-15)
    assert A.dtype == b.dtype == np.float64 and np.linalg.eigvalsh(A)[0] > -1e-12 and np.abs(b).max() <= 1


@pytest.mark.parametrize("centering", ["biased", "unbiased"])
@pytest.mark.parametrize("kernel", ["gaussian", "gaussian_median", "linear"])
def test_invariances(kernel: str, centering: str) -> None:
    rng = np.random.default_rng(0)
    X, y = sample()[0], rng.standard_normal((60, 3))
    y += X[:, :3]

    def system(X: np.ndarray, y: np.ndarray, **options: int) -> np.ndarray:
        A, b = hsic_system(X, y, kernel_x=kernel, kernel_y="gaussian_median", centering=centering, **options)
        return np.column_stack([A, b])

    expected = system(X, y)
    order, channels = rng.permutation(60), rng.permutation(7)
    np.testing.assert_allclose(system(X[order], y[order]), expected, rtol=0, atol=1e-12)
    shuffled = system(X[:, channels], y)
    np.testing.assert_allclose(shuffled, expected[channels][:, [*channels, 7]], rtol=0, atol=1e-12)
    affine = X * np.array([1, -1, 1e3, -1e-3, 2, 1, 5]) + np.array([0, 3, -1e3, 1, 0, 7, 0])
    rotation, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    np.testing.assert_allclose(system(affine, -2.5 * y @ rotation + 4), expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(
        system(X, y, block_size=15, max_bytes=1), system(X, y, block_size=15), rtol=0, atol=1e-13
    )
    for max_bytes in (30_000, 50_000, 80_000, 110_000):
        np.testing.assert_allclose(system(X, y, max_bytes=max_bytes), expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(system(X.astype(np.float32), y.astype(np.float32)), expected, rtol=0, atol=2e-5)
    np.testing.assert_array_equal(system(X, y, block_size=1000), expected)


def test_tensors_come_back_as_tensors() -> None:
    X, y = sample()
    A, b = hsic_system(X, y)
    tA, tb = hsic_system(torch.from_numpy(X).requires_grad_(), y.tolist())
    assert isinstance(tA, torch.Tensor) and isinstance(A, np.ndarray)
    np.testing.assert_array_equal(tA.numpy(), A)
    np.testing.assert_array_equal(tb.numpy(), b)
    half, _ = hsic_system(torch.from_numpy(X).half(), torch.from_numpy(y))
    assert half.dtype == torch.float64 and float((half - tA).abs().max()) < 1e-2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_device_does_not_matter() -> None:
    X, y = sample()
    expected = hsic_system(X, y, block_size=20, permutations=2)
    found = hsic_system(torch.from_numpy(X).cuda(), y, block_size=20, permutations=2)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.is_cuda
        np.testing.assert_allclose(ours.cpu().numpy(), theirs, rtol=0, atol=1e-12)


def test_weights_scale_the_system() -> None:
    X, y = sample()
    c = np.linspace(0, 1, 7)
    A, b = hsic_system(X, y)
    wA, wb = hsic_system(X, y, weights=c)
    np.testing.assert_allclose(wA, A * np.outer(c, c), rtol=0, atol=1e-15)
    np.testing.assert_allclose(wb, b * c, rtol=0, atol=1e-15)
    assert nonnegative_lasso_path(wA, wb).entry[0] == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("centering", ["biased", "unbiased"])
@pytest.mark.parametrize("kernel", ["gaussian", "gaussian_median", "linear", "delta"])
def test_constants_are_unrelated_to_everything(kernel: str, centering: str, dtype: type) -> None:
    X, y = sample()
    X[:, 2], X[:, 4] = 0.1, 0.0
    X = X.round(1).astype(dtype)
    A, b = hsic_system(X, y.astype(dtype), kernel_x=kernel, centering=centering, block_size=20)
    for k in (2, 4):
        assert not A[k].any() and not A[:, k].any() and b[k] == 0
    assert nonnegative_lasso_path(A, b).entry[[2, 4]].tolist() == [0, 0]
    A, b = hsic_system(X, np.full(60, 0.3, dtype), kernel_x=kernel, centering=centering)
    assert not b.any() and nonnegative_lasso_path(A, b).lambdas.tolist() == [0]


def test_a_feature_that_varies_in_some_blocks_counts_in_those() -> None:
    X, y = np.random.default_rng(0).standard_normal((40, 2)), np.arange(40.0)
    X[:, 1] = 0
    X[7, 1] = 1
    A, _ = hsic_system(X, y, centering="biased", block_size=10)
    np.testing.assert_allclose(np.diag(A), [1, 0.25], rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_duplicates_have_cosine_one_and_one_is_kept(dtype: type) -> None:
    X, y = sample()
    X = np.hstack([X, X[:, ::-1]]).astype(dtype)
    A, b = hsic_system(X, y, block_size=20)
    np.testing.assert_allclose(A[np.arange(7), 13 - np.arange(7)], 1, rtol=0, atol=1e-14)
    path = nonnegative_lasso_path(A, b)
    assert (path.entry[:7] > 0).sum() > 1 and not path.entry[7:].any()


@pytest.mark.parametrize("centering", ["biased", "unbiased"])
def test_the_smallest_problem(centering: str) -> None:
    x = np.array([0.0, 1.0, 3.0, 7.0])
    A, b = hsic_system(x[:, None], x, centering=centering)
    np.testing.assert_allclose(A, [[1]])
    np.testing.assert_allclose(b, [1])


@pytest.mark.parametrize(
    ("X", "y", "options", "message"),
    [
        (np.ones(5), np.ones(5), {}, r"\(n, d\) or \(n, d, p\)"),
        (np.ones((0, 3)), np.ones(0), {}, "not empty"),
        (np.ones((5, 2)), np.ones(4), {}, "5 samples in X and 4 in y"),
        (np.array([[1.0], [np.nan], [2.0], [np.inf]]), np.ones(4), {}, "2 that are NaN or infinite"),
        (np.ones((4, 1)), np.array([1, 2, np.nan, 4]), {}, "finite values in y"),
        (np.ones((3, 1)), np.ones(3), {}, "at least 4 samples a block"),
        (np.ones((1, 1)), np.ones(1), {"centering": "biased"}, "at least 2 samples a block"),
        (np.ones((9, 1)), np.ones(9), {"block_size": 3}, "got 3"),
        (np.ones((9, 1)), np.ones(9), {"block_size": -1}, "block_size"),
        (np.ones((9, 1)), np.ones(9), {"permutations": 0}, "permutations"),
        (np.ones((9, 1)), np.ones(9), {"seed": -1}, "seed"),
        (np.ones((9, 1)), np.ones(9), {"max_bytes": 1.5}, "max_bytes"),
        (np.ones((9, 1)), np.ones(9), {"centering": "none"}, "biased, unbiased"),
        (np.ones((9, 2)), np.ones(9), {"weights": [1.0]}, "weights to be 2"),
        (np.ones((9, 1)), np.ones(9), {"weights": [-1.0]}, "weights"),
        (np.array([["a"], ["b"]]), np.ones(2), {}, "numeric"),
        (np.ones((9, 1)) * 1j, np.ones(9), {}, "real"),
    ],
)
def test_bad_arguments_are_named(X: np.ndarray, y: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hsic_system(X, y, **options)
