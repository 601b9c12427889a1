"""Agreement with pyHSICLasso: its own selections from files, and live on generated data."""

import json
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat

from depgraph_hsic_only.hsic import hsic_system, nonnegative_lasso_path

GOLDENS = Path(__file__).parents[2].parent / "shared" / "data" / "pyhsiclasso"
CASES = json.loads((GOLDENS / "goldens.json").read_text())["cases"] if (GOLDENS / "goldens.json").exists() else []


def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    if name.endswith(".mat"):
        data = loadmat(GOLDENS / name)
        return data["X"].T.astype(float), data["Y"].ravel().astype(float)
    table = np.loadtxt(GOLDENS / name, delimiter=",", skiprows=1)
    return table[:, 1:], table[:, 0]


@pytest.mark.skipif(not CASES, reason=f"no selections of pyHSICLasso at {GOLDENS}")
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['data']}-{c['task']}-{c['block']}")
def test_its_own_selections_in_order(case: dict[str, Any]) -> None:
    X, y = load(case["data"])
    A, b = hsic_system(
        X,
        y,
        kernel_x=case["kernel_x"],
        kernel_y=case["kernel_y"],
        centering="biased",
        block_size=case["block"],
        permutations=case["permutations"],
    )
    path = nonnegative_lasso_path(A, b, max_features=case["k"])
    selected = path.select(case["k"])
    assert selected == case["expected"] and path.kkt_violation < 1e-10
    if "coefficients" in case:
        np.testing.assert_allclose(path.coefs[path.knot(case["k"])][selected], case["coefficients"], rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: ModuleType = pytest.importorskip("pyHSICLasso", reason="pyHSICLasso is not installed")
    return module


def run(
    reference: ModuleType, X: np.ndarray, Y: np.ndarray, k: int, kernel_x: str, kernel_y: str, **blocks: int
) -> Any:
    model = reference.HSICLasso()
    model.X_in, model.Y_in = X.T, Y.reshape(len(X), -1).T  # ``input`` takes one target column only
    model.featname = [str(i) for i in range(X.shape[1])]
    method = model.classification if kernel_y == "delta" else model.regression
    method(k, n_jobs=1, discrete_x=kernel_x == "delta", max_neighbors=0, **blocks)
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kernel_x", "kernel_y", "columns"),
    [("gaussian", "gaussian", 1), ("gaussian", "gaussian", 3), ("gaussian", "delta", 1), ("delta", "delta", 1)],
)
@pytest.mark.parametrize(("B", "M"), [(0, 3), (30, 2), (32, 3), (50, 3)])
def test_live_on_generated_data(
    reference: ModuleType, kernel_x: str, kernel_y: str, columns: int, B: int, M: int
) -> None:
    rng = np.random.default_rng(B + columns)
    X = rng.standard_normal((90, 24)) * rng.uniform(0.1, 9, 24) + 0.5
    X[:, 12:] += X[:, :12]
    Y = np.stack([X[:, j] ** 2 + 2 * X[:, j + 3] + rng.standard_normal(90) for j in range(columns)], axis=1)
    if kernel_x == "delta":
        X = np.floor(X / X.std(0) * 1.5)
    if kernel_y == "delta":
        Y = np.digitize(Y, np.quantile(Y, [0.3, 0.6])).astype(float)
    theirs = run(reference, X, Y, 8, kernel_x, kernel_y, B=B, M=M)
    A, b = hsic_system(X, Y, kernel_x=kernel_x, kernel_y=kernel_y, centering="biased", block_size=B, permutations=M)
    np.testing.assert_allclose(A, theirs.X.T.astype(float) @ theirs.X, rtol=0, atol=2e-6)
    np.testing.assert_allclose(b, theirs.Xty.ravel(), rtol=0, atol=2e-6)
    path = nonnegative_lasso_path(A, b, max_features=8)
    selected = path.select(8)
    assert selected == theirs.get_index()
    np.testing.assert_allclose(path.coefs[path.knot(8)][selected], theirs.get_index_score(), rtol=0, atol=2e-5)
