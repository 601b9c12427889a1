"""The path against its optimality conditions and against other solvers."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from depgraph_hsic_only.hsic import LassoPath, nonnegative_lasso_path


def system(Z: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return Z.T @ Z, Z.T @ y


def random_system(d: int, r: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit columns with positive correlation, as centred Gram matrices have; rank at most r."""
    rng = np.random.default_rng(seed)
    Z = np.abs(rng.standard_normal((r, d))) + 0.3 * rng.standard_normal((r, d))
    Z /= np.linalg.norm(Z, axis=0)
    return system(Z, Z @ np.maximum(rng.standard_normal(d), 0) + 0.3 * rng.standard_normal(r))


def coordinate_descent(A: np.ndarray, b: np.ndarray, lam: float) -> np.ndarray:
    alpha = np.zeros(len(b))
    for _ in range(20_000):
        before = alpha.copy()
        for k in np.flatnonzero(np.diag(A) > 0):
            alpha[k] = max(0.0, alpha[k] + (b[k] - A[k] @ alpha - lam) / A[k, k])
        if np.abs(alpha - before).max() < 1e-13:
            break
    return alpha


def objective(A: np.ndarray, b: np.ndarray, lam: float, alpha: np.ndarray) -> float:
    return float(0.5 * alpha @ A @ alpha - b @ alpha + lam * alpha.sum())


def assert_optimal(A: np.ndarray, b: np.ndarray, path: LassoPath, tolerance: float = 1e-10) -> None:
    """The Karush–Kuhn–Tucker conditions at every knot and, the path being linear between them, half way."""
    assert (np.diff(path.lambdas) < 0).all() and path.lambdas[0] == max(b.max(), 0)
    middles = (path.lambdas[1:] + path.lambdas[:-1]) / 2
    for lam in [*path.lambdas, *middles]:
        alpha = path.at(lam)
        g = b - A @ alpha
        assert (g - lam).max() < tolerance and np.abs(g - lam)[alpha > 0].max(initial=0) < tolerance
        assert alpha.min() >= 0
    assert path.kkt_violation < tolerance
    first = [path.coefs[:, k].nonzero()[0] for k in range(len(b))]
    for k, knots in enumerate(first):
        assert path.entry[k] == (path.lambdas[knots[0] - 1] if len(knots) else path.entry[k])
    assert sorted(path.ranking()) == list(range(len(b)))
    assert ((path.score >= 0) & (path.score <= 1) & (path.runner_up >= 0) & (path.runner_up <= 1)).all()


@pytest.mark.parametrize(("d", "r"), [(1, 1), (2, 5), (30, 60), (30, 12), (120, 200), (120, 60)])
def test_optimal_at_every_knot_and_between(d: int, r: int) -> None:
    A, b = random_system(d, r, seed=d + r)
    path = nonnegative_lasso_path(A, b)
    assert_optimal(A, b, path)
    assert not path.coefs[0].any() and path.lambdas[-1] == 0
    np.testing.assert_array_equal(path.at(path.lambdas[0] * 2), np.zeros(d))


def test_at_zero_it_is_nonnegative_least_squares() -> None:
    rng = np.random.default_rng(0)
    Z, y = np.abs(rng.standard_normal((50, 20))), rng.standard_normal(50) + 1
    path = nonnegative_lasso_path(*system(Z, y))
    np.testing.assert_allclose(path.coefs[-1], nnls(Z, y)[0], rtol=0, atol=1e-10)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 10**6), st.floats(0.02, 0.9))
@example(3, 7, 897036, 0.125)  # coordinate descent shares a coefficient out between a feature and its duplicate
def test_fuzz_against_coordinate_descent(d: int, r: int, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    A, b = system(rng.standard_normal((r, d)), rng.standard_normal(r)) if seed % 2 else random_system(d, r, seed)
    if rng.random() < 0.3:  # an exact duplicate and a zero
        A, b = (M[np.ix_(*[[*range(d), 0]] * M.ndim)] for M in (A, b))
    path = nonnegative_lasso_path(A, b)
    assert_optimal(A, b, path)
    lam = share * path.lambdas[0]
    ours, theirs = path.at(lam), coordinate_descent(A, b, lam)
    assert objective(A, b, lam, ours) <= objective(A, b, lam, theirs) + 1e-12
    if r > 2 * d:  # one solution, but for how a feature and its duplicate share their coefficient
        ours, theirs = (x[:d] + np.eye(d)[0] * x[d:].sum() for x in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 10**6))
@example(6, 5, 1629)  # feature 4 meets λ_max, stays at 0 and leaves; it enters for good only at the fifth knot
def test_fuzz_of_ties_duplicates_zeros_and_dependence(d: int, r: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    A, b = system(rng.integers(-1, 3, (r, d)).astype(float), rng.integers(-2, 4, r).astype(float))
    assert_optimal(A, b, nonnegative_lasso_path(A, b))


@pytest.mark.parametrize("distance", [1e-2, 1e-4, 1e-6])
def test_near_duplicates_do_not_cost_accuracy(distance: float) -> None:
    rng = np.random.default_rng(0)
    Z = rng.standard_normal((40, 20))
    Z[:, 10:] = Z[:, :10] + distance * rng.standard_normal((40, 10))
    A, b = system(Z, Z[:, :5].sum(1) + rng.standard_normal(40))
    assert_optimal(A / 40, b / 40, nonnegative_lasso_path(A / 40, b / 40))


@pytest.mark.filterwarnings("ignore")
def test_agrees_with_scikit_learn_before_its_last_knot() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    A, b = random_system(20, 60, seed=3)
    alphas, _, coefs = linear_model.lars_path_gram(b, A, n_samples=1, method="lasso", positive=True)
    path = nonnegative_lasso_path(A, b)
    for lam, alpha in list(zip(alphas, coefs.T, strict=True))[:-1]:
        np.testing.assert_allclose(path.at(min(lam, path.lambdas[0])), alpha, rtol=0, atol=1e-8)


def test_ties_enter_together() -> None:
    path = nonnegative_lasso_path(np.eye(3), np.array([2.0, 2.0, 1.0]))
    np.testing.assert_array_equal(path.lambdas, [2, 1, 0])
    np.testing.assert_array_equal(path.coefs, [[0, 0, 0], [1, 1, 0], [2, 2, 1]])
    np.testing.assert_array_equal(path.entry, [2, 2, 1])
    assert path.select(1) == [0] and path.select(2) == [0, 1] and path.select(3) == [0, 1, 2]


def test_a_feature_that_leaves_and_returns_keeps_its_first_entry() -> None:
    found = False
    for seed in range(200):
        A, b = random_system(6, 6, seed)
        path = nonnegative_lasso_path(A, b)
        for k in np.flatnonzero(path.entry):
            on = path.coefs[:, k] > 0
            if (np.diff(on.astype(int)) == 1).sum() > 1:
                found = True
                assert path.entry[k] == path.lambdas[np.argmax(on) - 1]
    assert found


def test_stops_early_on_the_same_path() -> None:
    A, b = random_system(30, 60, seed=0)
    whole = nonnegative_lasso_path(A, b)
    for k in (1, 5, 12):
        part = nonnegative_lasso_path(A, b, max_features=k)
        assert part.select(k) == whole.select(k) and (part.coefs > 0).sum(1).max() <= k
        np.testing.assert_allclose(part.lambdas, whole.lambdas[: len(part.lambdas)], rtol=1e-12)
        assert_optimal(A, b, part)
        with pytest.raises(ValueError, match=f"at most {k}"):
            part.select(k + 1)
    lam = 0.3 * whole.lambdas[0]
    part = nonnegative_lasso_path(A, b, min_lambda=lam)
    assert part.lambdas[-1] == lam
    np.testing.assert_allclose(part.coefs[-1], whole.at(lam), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="where the path ends"):
        part.at(lam / 2)
    assert not nonnegative_lasso_path(A, b, min_lambda=2 * b.max()).entry.any()


def test_the_ranking_orders_what_never_enters_by_how_near_it_came() -> None:
    A, b = random_system(40, 12, seed=1)
    path = nonnegative_lasso_path(A, b)
    never = path.entry == 0
    assert 5 < never.sum() < 40
    fine = np.linspace(1e-6, 1, 2000) * path.lambdas[0]
    nearness = np.max([(b - A @ path.at(lam)) / lam for lam in fine], axis=0).clip(0, 1)
    np.testing.assert_allclose(path.runner_up[never], nearness[never], rtol=0, atol=5e-3)
    ranking = path.ranking()
    assert never[ranking].tolist() == sorted(never.tolist())
    assert (np.diff(path.entry[ranking]) <= 0).all() and (np.diff(path.runner_up[ranking]) <= 0).all()


def test_nothing_relevant_and_fewer_than_asked_for() -> None:
    path = nonnegative_lasso_path(np.eye(3), np.array([0.0, -1.0, 0.0]))
    assert path.lambdas.tolist() == [0] and path.select(2) == [] and not path.score.any()
    path = nonnegative_lasso_path(torch.eye(3), torch.tensor([0.5, -1.0, 0.25]))
    assert path.select(3) == [0, 2] and path.kkt_violation == 0


@pytest.mark.parametrize(
    ("A", "b", "options", "message"),
    [
        (np.eye(2), np.ones(3), {}, r"\(2, 2\) and \(3,\)"),
        (np.ones((0, 0)), np.ones(0), {}, "d ≥ 1"),
        (np.full((1, 1), np.nan), np.ones(1), {}, "finite"),
        (np.array([[1.0, 0.5], [0.0, 1.0]]), np.ones(2), {}, "symmetric"),
        (np.array([[1.0, 2.0], [2.0, 1.0]]), np.ones(2), {}, "semidefinite"),
        (-np.eye(2), np.ones(2), {}, "semidefinite"),
        (np.ones((3, 3)) * -0.9 + np.eye(3) * 1.9, np.ones(3), {}, "Schur complement"),
        (np.diag([1.0, 0.0]), np.ones(2), {}, "no minimum"),
        (np.array([[1.0, -1.0], [-1.0, 1.0]]), np.ones(2), {}, "no minimum below"),
        (np.eye(2), np.ones(2), {"max_features": 0}, "max_features"),
        (np.eye(2), np.ones(2), {"min_lambda": -1}, "min_lambda"),
    ],
)
def test_what_has_no_path_is_refused(A: np.ndarray, b: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nonnegative_lasso_path(A, b, **options)


def test_a_target_outside_the_range_is_still_solved_where_there_is_a_minimum() -> None:
    A, b = np.ones((2, 2)), np.array([2.0, 1.0])  # a duplicate with another relevance: the better one takes it all
    path = nonnegative_lasso_path(A, b)
    np.testing.assert_allclose(path.coefs[-1], [2, 0])
    rng = np.random.default_rng(0)
    for _ in range(50):
        Z = np.abs(rng.standard_normal((3, 7)))  # positive inner products: always a minimum
        b = rng.standard_normal(7)
        path = nonnegative_lasso_path(Z.T @ Z, b)
        assert path.kkt_violation < 1e-9


def test_near_duplicates_in_a_rounded_system_take_each_others_place() -> None:
    """Few images give dependent features, and float32 puts b a little outside A's range."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        Z = np.abs(rng.standard_normal((rng.integers(1, 8), rng.integers(2, 20)))).repeat(2, axis=1)
        Z[:, 1::2] *= 1 + 1e-6 * rng.standard_normal(Z[:, 1::2].shape)
        Z = (Z / np.linalg.norm(Z, axis=0)).astype(np.float32)
        A, b = system(Z, np.abs(rng.standard_normal(len(Z))).astype(np.float32))
        path = nonnegative_lasso_path(A, b)
        g = b - path.coefs @ A.astype(float)
        assert (g - path.lambdas[:, None]).max() < 1e-5 * path.lambdas[0] and path.lambdas[-1] == 0
        assert path.kkt_violation < 1e-5 * path.lambdas[0] and len(path.select(3)) <= 3
