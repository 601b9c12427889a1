"""Criteria: how important is each channel of a group? A registry, and the built-in criteria, imported on first use."""

from depgraph_hsic_only.criteria.registry import create_criterion, list_criteria

__all__ = ["create_criterion", "list_criteria"]
