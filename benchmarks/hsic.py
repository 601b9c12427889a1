"""HSIC-Lasso: ours and pyHSICLasso on the same arrays, interleaved in one run. Prints a markdown table.

    python benchmarks/hsic.py [--repeats 1] [--quick]

pyHSICLasso selects ``k`` features; we compute the whole path, which ranks all d. Both start from the same float64
arrays and are timed from there to the result, with the biased centring that pyHSICLasso has. Agreement: the largest
difference in (A, b), whether the k features are the same in the same order, and the largest difference of their
coefficients. Needs ``pip install pyHSICLasso``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout beside this file, installed or not
warnings.simplefilter("ignore")  # pyHSICLasso warns of every remainder, of its own imports, and of each deprecated call

from pyHSICLasso import HSICLasso  # noqa: E402

from depgraph_hsic_only.hsic import hsic_system, nonnegative_lasso_path  # noqa: E402


@dataclass(frozen=True)
class Case:
    """n samples of d features in blocks of ``block`` with ``permutations``; pyHSICLasso selects k."""

    n: int
    d: int
    block: int
    permutations: int
    k: int


CASES = (
    Case(n=256, d=64, block=64, permutations=3, k=32),
    Case(n=512, d=128, block=128, permutations=1, k=64),
    Case(n=512, d=256, block=128, permutations=1, k=64),
    Case(n=1024, d=64, block=256, permutations=1, k=32),
    Case(n=1024, d=256, block=256, permutations=1, k=200),
)


def arrays(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Independent features, and a target that reads most of them, so that k can be selected."""
    rng = np.random.default_rng(case.d)
    X = rng.standard_normal((case.n, case.d))
    return X, X @ np.linspace(1.0, 0.2, case.d) + 0.1 * rng.standard_normal(case.n)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def theirs(X: np.ndarray, y: np.ndarray, case: Case) -> Any:
    model = HSICLasso()
    with contextlib.redirect_stdout(io.StringIO()):
        model.input(X, y)
        model.regression(case.k, B=case.block, M=case.permutations, max_neighbors=0)
    return model


def ours(X: np.ndarray, y: np.ndarray, case: Case) -> tuple[Any, Any, Any, float]:
    system_seconds, (A, b) = timed(
        lambda: hsic_system(X, y, centering="biased", block_size=case.block, permutations=case.permutations)
    )
    return A, b, nonnegative_lasso_path(A, b), system_seconds


def row(case: Case, repeats: int) -> str:
    X, y = arrays(case)
    ours(X[: case.block], y[: case.block], case)  # the first call loads BLAS
    their_seconds, our_seconds, system_seconds = [], [], []
    for _ in range(repeats):
        seconds, (A, b, path, system) = timed(lambda: ours(X, y, case))
        our_seconds.append(seconds)
        system_seconds.append(system)
        seconds, model = timed(lambda: theirs(X, y, case))
        their_seconds.append(seconds)
    difference = max(np.abs(A - model.X.T @ model.X).max(), np.abs(b - model.Xty.ravel()).max())
    selected, their_selected = path.select(case.k), list(model.get_index())
    coefficients = np.abs(path.coefs[path.knot(case.k)][their_selected] - model.get_index_score().ravel()).max()
    t, o = statistics.median(their_seconds), statistics.median(our_seconds)
    same = "all, in order" if selected == their_selected else f"{len({*selected} & {*their_selected})} of {case.k}"
    return (
        f"| {case.n} | {case.d} | {case.block} × {case.permutations} | {case.k} | {t:.2f} | {o:.3f} "
        f"({statistics.median(system_seconds):.3f} + {o - statistics.median(system_seconds):.3f}) | {t / o:.0f}× "
        f"| {same} | {coefficients:.0e} | {difference:.0e} | {path.kkt_violation:.0e} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1, help="median of so many interleaved runs")
    parser.add_argument("--quick", action="store_true", help="leave out the largest case, which takes minutes")
    arguments = parser.parse_args()
    print(
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}, NumPy {np.__version__}"
    )
    print()
    print(
        "| n | d | block × permutations | k | pyHSICLasso, k features [s] | ours, all features [s] (system + path) "
        "| ratio | same selection | coefficients differ | (A, b) differ | our KKT violation |\n" + "|---" * 11 + "|"
    )
    for case in CASES[:-1] if arguments.quick else CASES:
        print(row(case, arguments.repeats), flush=True)


if __name__ == "__main__":
    main()
