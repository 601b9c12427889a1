"""Figures of a run, a cut and a comparison."""

from depgraph_hsic_only.report.figures.channels import plot_lasso_path, plot_scores, plot_sensitivity
from depgraph_hsic_only.report.figures.network import plot_network
from depgraph_hsic_only.report.figures.pareto import pareto_front, plot_pareto
from depgraph_hsic_only.report.figures.rivals import plot_rivals
from depgraph_hsic_only.report.figures.run import (
    plot_classes,
    plot_latency,
    plot_metrics,
    plot_stages,
    plot_training,
    plot_trajectory,
)

__all__ = [
    "pareto_front",
    "plot_classes",
    "plot_lasso_path",
    "plot_latency",
    "plot_metrics",
    "plot_network",
    "plot_pareto",
    "plot_rivals",
    "plot_scores",
    "plot_sensitivity",
    "plot_stages",
    "plot_training",
    "plot_trajectory",
]
