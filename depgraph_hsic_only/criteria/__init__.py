"""Criteria: how important is each channel of a group? A registry, and the built-in criteria, imported on first use."""

from depgraph_hsic_only.criteria.registry import (
    Criterion,
    PerGroup,
    create_criterion,
    list_criteria,
    register_criterion,
)

__all__ = ["Criterion", "PerGroup", "create_criterion", "list_criteria", "register_criterion"]
