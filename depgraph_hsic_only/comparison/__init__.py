"""Several criteria and sizes on the same data: which criterion, and how far can one go?"""

from depgraph_hsic_only.comparison.recommendation import Choice, Difference, Recommendation, recommend
from depgraph_hsic_only.comparison.result import Comparison
from depgraph_hsic_only.comparison.run import compare
from depgraph_hsic_only.comparison.table import Row, Summary, summarize

__all__ = [
    "Choice",
    "Comparison",
    "Difference",
    "Recommendation",
    "Row",
    "Summary",
    "compare",
    "recommend",
    "summarize",
]
