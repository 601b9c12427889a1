"""The active set S of the path and a factor of A_SS that grows and shrinks with it.

M (s, s) with MᵀM = A_SS⁻¹ is kept, the inverse of a Cholesky factor up to a rotation, so that a solution costs two
matrix–vector products and no factorisation:

* append k: with l = M a, a = A_Sk, the Schur complement is δ = A_kk − ‖l‖², and M gains the row (−lᵀM, 1) / √δ;
* remove i: a Householder reflection turns column i of M into a multiple of the last unit vector; the last row and
  column i go.

The square root keeps the condition number of A_SS out of it as a Cholesky factor does; one step of refinement against
A itself keeps the solutions at rounding level.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_DEPENDENT = 1e-13  # δ / A_kk below which a feature lies in the span of the active ones
_ROUNDING = 1e-6  # |E_ij| / √(A_ii A_jj) of rounding errors E in a Gram matrix (float32's where A was made in it)
_REFINE = 1e-13  # residual above which a solution is refined


class ActiveSet:
    """S in order of entry, the rows A_S, and M with MᵀM = A_SS⁻¹."""

    def __init__(self, A: Array, capacity: int) -> None:
        self.A = A
        self.members: list[int] = []
        self._rows = np.empty((capacity, len(A)))
        self._M = np.zeros((capacity, capacity))

    def __len__(self) -> int:
        return len(self.members)

    @property
    def rows(self) -> Array:
        """A_S, (s, d)."""
        return self._rows[: len(self)]

    @property
    def M(self) -> Array:
        return self._M[: len(self), : len(self)]

    def solve(self, rhs: Array) -> tuple[Array, Array]:
        """x (s,) with A_SS x = rhs, and A_S ᵀx (d,)."""
        x = self.M.T @ (self.M @ rhs)
        product = x @ self.rows
        residual = rhs - product[self.members]
        if np.abs(residual).max(initial=0.0) > _REFINE * np.abs(rhs).max(initial=1.0):
            x += self.M.T @ (self.M @ residual)
            product = x @ self.rows
        return x, product

    def append(self, k: int) -> bool:
        """Add k to S; False, and nothing done, where column k depends on those of S."""
        s, A_kk = len(self), self.A[k, k]
        a = self.rows[:, k]
        l = self.M @ a  # noqa: E741
        delta = A_kk - l @ l
        if delta < 1e-3 * A_kk:  # cancelled: from the refined projection, δ = A_kk − aᵀx − xᵀ(a − A_SS x)
            x, product = self.solve(a)
            delta = A_kk - a @ x - x @ (a - product[self.members])
            l = self.M @ product[self.members]  # noqa: E741
            moved = np.sqrt(A_kk) + np.abs(x) @ np.sqrt(self.A[self.members, self.members])
            if delta < -_ROUNDING * moved**2:  # E moves δ by (−x, 1)ᵀ E (−x, 1)
                raise ValueError(
                    f"Expected A to be positive semidefinite, got a Schur complement of {delta:.3g} at feature {k}."
                )
        if delta <= _DEPENDENT * A_kk:
            return False
        row = self._M[s, : s + 1]
        row[:s] = -(l @ self.M)
        row[s] = 1.0
        row /= np.sqrt(delta)
        self._M[:s, s] = 0.0
        self._rows[s] = self.A[k]
        self.members.append(k)
        return True

    def remove(self, k: int) -> None:
        """Take k out of S."""
        i, s = self.members.index(k), len(self)
        M = self.M
        w = M[:, i].copy()
        w[-1] += np.copysign(np.linalg.norm(w), w[-1])
        M -= np.outer(w * (2.0 / (w @ w)), w @ M)
        M[:, i : s - 1] = M[:, i + 1 : s].copy()
        self._rows[i : s - 1] = self._rows[i + 1 : s].copy()
        del self.members[i]
