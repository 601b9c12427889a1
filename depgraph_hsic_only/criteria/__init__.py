"""Criteria: how important is each channel of a group? A registry, and the criteria that need no images."""

from depgraph_hsic_only.criteria import gradient, hsic_lasso, reconstruction, weights  # noqa: F401  (importing registers them)
from depgraph_hsic_only.criteria.registry import (
    Criterion,
    PerGroup,
    create_criterion,
    list_criteria,
    register_criterion,
)

__all__ = ["Criterion", "PerGroup", "create_criterion", "list_criteria", "register_criterion"]
