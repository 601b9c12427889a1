"""The door to the page of a run: see `report.page`."""

from depgraph_hsic_only.report.page import render_html, write_html

__all__ = ["render_html", "write_html"]
