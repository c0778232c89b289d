"""The nearest point of a convex hull the way others find it: one problem after another, on the CPU."""

from collections.abc import Callable

import numpy as np

Weights = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(features [m, d] of a person, one embedding [d]) -> weights [m] of the nearest point of the hull, float64."""


def cvxpy_rebuilt(features: np.ndarray, embedding: np.ndarray) -> np.ndarray:
    """A new CVX problem for every embedding, as the authors' code has it."""
    import cvxpy

    weights = cvxpy.Variable(len(features))
    objective = cvxpy.Minimize(cvxpy.sum_squares(weights @ features - embedding))
    cvxpy.Problem(objective, [cvxpy.sum(weights) == 1, weights >= 0]).solve(solver=cvxpy.CLARABEL)
    return np.asarray(weights.value)


class CvxpyParametrised:
    """One CVX problem per shape, on the triangular factor of the features, whose data are parameters."""

    def __init__(self, size: int) -> None:
        import cvxpy

        self.solver = cvxpy.CLARABEL
        self.weights = cvxpy.Variable(size)
        self.factor, self.target = cvxpy.Parameter((size, size)), cvxpy.Parameter(size)
        objective = cvxpy.Minimize(cvxpy.sum_squares(self.factor @ self.weights - self.target))
        self.problem = cvxpy.Problem(objective, [cvxpy.sum(self.weights) == 1, self.weights >= 0])

    def __call__(self, features: np.ndarray, embedding: np.ndarray) -> np.ndarray:
        """Weights of one problem."""
        basis, self.factor.value = np.linalg.qr(features.T.astype(np.float64))
        self.target.value = basis.T @ embedding
        self.problem.solve(solver=self.solver)
        return np.asarray(self.weights.value)


def scipy_nnls(features: np.ndarray, embedding: np.ndarray, weight: float = 1e4) -> np.ndarray:
    """SciPy's non-negative least squares on the triangular factor, with sum w = 1 as a heavy equation."""
    from scipy.optimize import nnls

    basis, factor = np.linalg.qr(features.T.astype(np.float64))
    rows = np.vstack([factor, np.full((1, len(features)), weight)])
    return nnls(rows, np.append(basis.T @ embedding, weight))[0]
