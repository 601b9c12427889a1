"""The path of the lasso as a value: what it selects, how it ranks, how exactly it was solved."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .active_set import Array
from .arrays import check_count


@dataclass(frozen=True, eq=False)
class LassoPath:
    """The knots of a non-negative lasso path and what follows from them. K knots, d features.

    Attributes:
        lambdas: (K,) λ at the knots, falling, from λ_max = max(b)₊.
        coefs: (K, d) α ≥ 0 at the knots; between two knots α is linear in λ.
        active: (K, d) bool, the active set on leaving each knot (at the last one, with the feature that would enter
            there).
        entry: (d,) λ at which each feature first became active; 0 if never.
        runner_up: (d,) max over the knots of (g_k / λ)₊ with g = b − Aα, in [0, 1]: how near a feature came to
            entering; 1 if it did.
        kkt_violation: the largest of (g_k − λ)₊, |g_k − λ| where α_k > 0, and −α_k, over all knots and features.
    """

    lambdas: Array
    coefs: Array
    active: NDArray[np.bool_]
    entry: Array
    runner_up: Array
    kkt_violation: float

    @property
    def score(self) -> Array:
        """entry / λ_max, (d,) in [0, 1]: a threshold τ leaves out what the lasso at λ = τ λ_max has never let in."""
        lam_max = float(self.lambdas[0])
        return self.entry / lam_max if lam_max > 0 else np.zeros_like(self.entry)

    def ranking(self) -> NDArray[np.intp]:
        """All features, best first, (d,): by entry, those that never entered by runner_up, then by index."""
        return np.lexsort((-self.runner_up, -self.entry))

    def select(self, k: int) -> list[int]:
        """k features by falling coefficient at the knot where one more would enter, as pyHSICLasso selects.

        The knot is the first on whose leaving more than k features are active, or the end of the path. Where several
        enter there together they complete the k with coefficient 0, by index. Fewer than k are returned where so few
        have positive coefficients at the end (pyHSICLasso returns a feature of coefficient 0 too many there).

        Raises:
            ValueError: k is not an integer of at least 1, or the path was stopped at fewer features.
        """
        knot = self.knot(k)
        alpha, arriving = self.coefs[knot], self.active[knot] & (self.active[knot].sum() > k)
        order = np.lexsort((-self.entry, -alpha))
        return [int(j) for j in order if alpha[j] > 0 or arriving[j]][:k]

    def knot(self, k: int) -> int:
        """The index of the knot that ``select(k)`` reads its coefficients from.

        Raises:
            ValueError: k is not an integer of at least 1, or the path was stopped at fewer features.
        """
        outgrown = self.active.sum(axis=1) > check_count("k", k, 1)
        refused = self.active[-1] & (self.entry == 0)
        if refused.any() and not outgrown.any():
            most = int(self.active[-1].sum()) - 1
            raise ValueError(f"Expected k of at most {most}, where max_features stopped the path, got {k}; raise it.")
        return int(np.argmax(outgrown)) if outgrown.any() else len(self.lambdas) - 1

    def at(self, lam: float) -> Array:
        """α(λ), (d,), by linear interpolation; 0 above λ_max.

        Raises:
            ValueError: λ is below the end of the path, or not a number.
        """
        if not lam >= self.lambdas[-1]:
            raise ValueError(
                f"Expected λ of at least {self.lambdas[-1]:.6g}, where the path ends, got {lam!r}; compute it further."
            )
        if lam >= self.lambdas[0]:
            return np.zeros_like(self.entry)
        m = int(np.searchsorted(-self.lambdas, -lam))
        share = (self.lambdas[m - 1] - lam) / (self.lambdas[m - 1] - self.lambdas[m])
        alpha: Array = (1 - share) * self.coefs[m - 1] + share * self.coefs[m]
        return alpha


def certified_path(
    A: Array, b: Array, lambdas: Array, coefs: Array, active: NDArray[np.bool_], entry: Array
) -> LassoPath:
    """The path with its certificate: g = b − Aα computed afresh at every knot."""
    runner_up, violation = np.zeros(len(b)), 0.0
    for start in range(0, len(lambdas), 256):
        lam, alpha = lambdas[start : start + 256, None], coefs[start : start + 256]
        g = b - alpha @ A
        excess = g - lam
        violation = max(
            violation, excess.max(), np.abs(excess, where=alpha > 0, out=np.zeros_like(g)).max(), -alpha.min()
        )
        ratio = np.divide(g, lam, out=np.zeros_like(g), where=lam > 1e-12 * lambdas[0])
        runner_up = np.maximum(runner_up, ratio.max(axis=0))
    runner_up = np.where(entry > 0, 1.0, np.minimum(runner_up, 1.0))
    return LassoPath(lambdas, coefs, active, entry, runner_up, float(violation))
