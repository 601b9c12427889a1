"""The whole path of the non-negative lasso on a Gram system, exactly.

    α(λ) = argmin over α ≥ 0 of  ½ αᵀAα − bᵀα + λ 1ᵀα,      g = b − Aα

α is a solution iff g_k ≤ λ for all k and g_k = λ where α_k > 0 (Karush–Kuhn–Tucker). It is piecewise linear in λ:
while the active set S stands, lowering λ by γ moves α_S by γv with A_SS v = 1 and g by −γq with q = A_·S v. A knot is
where a feature outside reaches g_k = λ (after (λ − g_k)/(1 − q_k)) or one inside returns to α_k = 0 (after −α_k/v_k):
LARS with the lasso modification (Efron et al. 2004; non-negative in Mørup et al. 2008), on (A, b) alone.

Where several features meet at one knot, the direction is itself a small non-negative problem. It is solved by
exchanging the infeasible feature of least index, one at a time, until none is left (Murty 1974: finite, no cycles),
before λ moves.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .active_set import ActiveSet, Array
from .arrays import check_count

_TIE = 1e-12  # of λ_max: knots closer than this are one knot
_WRONG = 1e-5  # of λ_max: a violation of the optimality conditions that is not returned as a solution
_INCONSISTENT = 1e-5  # the same for a column that depends on S: more than that is no rounding, but b outside A's range
_PARALLEL = 1e-11  # 1 − q_k below which g_k stays with λ: what lies in the span of S keeps its tie and never enters


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


def nonnegative_lasso_path(
    A: Tensor | ArrayLike, b: Tensor | ArrayLike, *, max_features: int | None = None, min_lambda: float = 0.0
) -> LassoPath:
    """All solutions of the non-negative lasso from λ_max = max(b)₊ down to ``min_lambda``.

    Exact duplicates: the one of least index enters, the others never. Features tied at a knot enter together. A
    feature that depends linearly on the active ones waits until one of them leaves.

    Args:
        A: (d, d) symmetric positive semidefinite. b: (d,), in the range of A, as of any (A, b) made of inner products.
        max_features: stop at the knot where the active set would outgrow this (the knot that ``select(max_features)``
            reads).
        min_lambda: stop at this λ ≥ 0.

    Returns:
        `LassoPath`, in NumPy float64 on the CPU whatever A and b are, with the largest violation of the
        conditions above.

    Raises:
        ValueError: wrong shapes, NaN or infinite values, A not symmetric or not positive semidefinite, no minimum
            (b outside the range of A), or arguments out of range.
        ArithmeticError: no end in 100 d exchanges, or a violation above 1e-5 λ_max: b is far outside the range of A.
    """
    A, b = _checked_system(A, b)
    capacity = len(b) if max_features is None else min(check_count("max_features", max_features, 1), len(b))
    if not 0 <= min_lambda < np.inf:
        raise ValueError(f"Expected min_lambda to be finite and at least 0, got {min_lambda!r}.")
    d, min_lambda = len(b), float(min_lambda)
    lam_max = max(float(b.max()), 0.0)
    tie = _TIE * lam_max
    S = ActiveSet(A, capacity)
    lam, alpha, waiting = lam_max, np.zeros(d), np.zeros(d, dtype=bool)
    outside, blocked = np.ones(d, dtype=bool), np.zeros(d, dtype=bool)
    lambdas, coefs, active = [lam], [alpha.copy()], [~outside]

    for _ in range(100 * (d + 10)):
        v, q = S.solve(np.ones(len(S)))
        steps = _steps(S, v, q, b - alpha[S.members] @ S.rows, alpha, lam, outside & ~blocked)
        gamma, rest = float(steps.min()), lam - min_lambda
        if gamma > rest - tie:
            gamma = rest
        if gamma > tie:
            active[-1] = ~outside
            alpha[S.members] = np.maximum(alpha[S.members] + gamma * v, 0.0)
            lam = lam - gamma if gamma < rest else min_lambda
            lambdas.append(lam)
            coefs.append(alpha.copy())
            active.append(~outside)
        if lam <= min_lambda + tie:
            break
        k = int(np.argmax(steps <= gamma + tie))  # the least index of those that meet at this knot
        if not outside[k]:
            S.remove(k)
            outside[k], alpha[k] = True, 0.0
            coefs[-1][k] = 0.0
            blocked[:] = False
        elif len(S) == capacity:
            waiting = ~outside
            active[-1] = waiting.copy()
            active[-1][k] = True
            break
        elif S.append(k):
            outside[k] = False
        elif 1.0 - q[k] < _INCONSISTENT:
            blocked[k] = True
        else:
            leaving = _exchange(S, alpha, k, lam)
            outside[leaving], outside[k] = True, False
            coefs[-1] = alpha.copy()
            blocked[:] = False
    else:
        raise ArithmeticError(
            f"The path did not end in {100 * (d + 10)} exchanges (λ = {lam:.3g}); is b in the range of A?"
        )
    knots, alphas = np.array(lambdas), np.array(coefs)
    path = _certified_path(A, b, knots, alphas, np.array(active), _entries(knots, alphas, waiting))
    if path.kkt_violation > _WRONG * lam_max:
        raise ArithmeticError(
            f"The path violates its optimality conditions by {path.kkt_violation:.3g}; is b in A's range?"
        )
    return path


def _certified_path(
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


def _entries(lambdas: Array, coefs: Array, waiting: np.ndarray) -> Array:
    """λ of the knot from which each coefficient first grows; a feature that meets λ and stays at 0 has not entered.

    What is `waiting`, (d,), enters at the last knot, where a path ends for want of room.
    """
    grown = coefs > 0
    entry = np.where(grown.any(0), lambdas[np.maximum(grown.argmax(0) - 1, 0)], 0.0)
    return np.where(waiting & (entry == 0), lambdas[-1], entry)


def _exchange(S: ActiveSet, alpha: Array, k: int, lam: float) -> list[int]:
    """Let k, which depends on S but would overtake λ (b outside the range of A), take the place of some of S; which.

    With c = A_SS⁻¹ A_Sk the move (−c, 1) changes no g: it goes on until the first α_i with c_i > 0 is 0. Among near
    duplicates k may depend on the rest of S too; then the move goes on from there.
    """
    leaving: list[int] = []
    while not leaving or not S.append(k):
        c, _ = S.solve(S.rows[:, k].copy())
        members = np.array(S.members, dtype=np.intp)
        falling = c > 1e-6 * np.abs(c).max(initial=0.0)  # less, and k would still depend on the rest
        if not falling.any():
            raise ValueError(
                f"Expected b in the range of A, got no minimum below λ = {lam:.6g}: feature {k} gains without end; "
                "pass min_lambda above that, or inner products of the same features and target."
            )
        ratio = np.where(falling, alpha[members] / np.where(falling, c, 1.0), np.inf)
        i = int(np.argmin(ratio))
        alpha[members] = np.maximum(alpha[members] - ratio[i] * c, 0.0)
        alpha[k] += ratio[i]
        leaving.append(int(members[i]))
        alpha[leaving[-1]] = 0.0
        S.remove(leaving[-1])
    return leaving


def _steps(S: ActiveSet, v: Array, q: Array, g: Array, alpha: Array, lam: float, candidate: np.ndarray) -> Array:
    """How far λ may fall until feature k changes sides, (d,); infinite where it does not."""
    steps = np.full(len(g), np.inf)
    closing = 1.0 - q
    entering = candidate & (closing > _PARALLEL)
    steps[entering] = np.maximum(lam - g[entering], 0.0) / closing[entering]
    members = np.array(S.members, dtype=np.intp)
    falling = v < -_PARALLEL * np.abs(v).max(initial=0.0)
    steps[members[falling]] = -alpha[members[falling]] / v[falling]
    return steps


def _checked_system(A: Tensor | ArrayLike, b: Tensor | ArrayLike) -> tuple[Array, Array]:
    A, b = (np.array(t.detach().cpu().numpy() if isinstance(t, Tensor) else t, dtype=np.float64) for t in (A, b))
    if b.ndim != 1 or not len(b) or A.shape != (len(b), len(b)):
        raise ValueError(f"Expected A (d, d) and b (d,) with d ≥ 1, got {A.shape} and {b.shape}.")
    if not (np.isfinite(A).all() and np.isfinite(b).all()):
        raise ValueError("Expected finite A and b, got NaN or infinite values; leave those features out.")
    diagonal, scale = np.diagonal(A), np.abs(A).max()
    if np.abs(A - A.T).max() > 1e-6 * scale:
        raise ValueError(
            f"Expected A to be symmetric, got |A − Aᵀ| up to {np.abs(A - A.T).max():.3g}; pass (A + Aᵀ)/2."
        )
    bound = np.sqrt(np.maximum(diagonal, 0.0))
    if (diagonal < 0).any() or (np.abs(A) > bound[:, None] * bound * (1 + 1e-5) + 1e-12 * scale).any():
        raise ValueError("Expected A to be positive semidefinite, got A_kk < 0 or A_kl² > A_kk A_ll for some pair.")
    if ((diagonal == 0) & (b > 0)).any():
        k = int(np.argmax((diagonal == 0) & (b > 0)))
        raise ValueError(
            f"Expected b to be in the range of A, got A_kk = 0 and b_k = {b[k]:.3g} > 0 at k = {k}: no minimum."
        )
    return 0.5 * (A + A.T), b
