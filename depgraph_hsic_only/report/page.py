"""The report that people send around: one page with everything in it, made from what the run folder holds."""

import base64
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from depgraph_hsic_only.errors import one_line
from depgraph_hsic_only.evaluation.agreement import COMPARED, ImageAgreement
from depgraph_hsic_only.report.exported import exported_table, other_texts
from depgraph_hsic_only.report.pruning_report import part_table
from depgraph_hsic_only.report.rivals import rival_table
from depgraph_hsic_only.report.run_report import RunReport
from depgraph_hsic_only.report.search import how_chosen, search_table, searched
from depgraph_hsic_only.report.stages import (
    TITLES,
    StageReport,
    class_table,
    latency_table,
    primary_first,
    stage_table,
)
from depgraph_hsic_only.report.tables import figure_text
from depgraph_hsic_only.report.warnings import find_warnings
from depgraph_hsic_only.support.files import write_text_atomically
from depgraph_hsic_only.support.resource_errors import storage_reason


def write_html(run_folder: str | Path) -> Path:
    """Draw the figures of a run anew and write `report.html` from what its folder holds.

    Where they can't be drawn, the page is written without them, and says why.

    Args:
        run_folder: A folder that a run wrote.

    Returns:
        The page.

    Raises:
        DataError: The folder holds no report.
    """
    from depgraph_hsic_only.report.figures.run import plot_metrics  # matplotlib takes a while to import

    report = RunReport.load(run_folder)
    pictures = [f"{name}.png" for kind in ("example", "difference") for name, _ in _pictures(report, kind)]
    missing = []
    try:
        files = plot_metrics(report.folder)
    except Exception as error:  # whatever matplotlib raises; but a full disk is for the user
        if storage_reason(error) is not None:
            raise
        files, missing = [], [f"The figures could not be drawn ({type(error).__name__}: {one_line(error)})."]
    files += [report.folder / "plots" / name for name in pictures]
    network = report.folder / "plots" / "network.png"
    if not report.layers and network.is_file():  # an earlier version's, from which it can't be drawn anew
        files.append(network)
    page = render_html(report, {file.stem: file.read_bytes() for file in files}, missing)
    path = report.folder / "report.html"
    write_text_atomically(path, page)
    return path


def render_html(report: RunReport, figures: Mapping[str, bytes], missing: Sequence[str] = ()) -> str:
    """The page of a run: nothing in it is fetched from elsewhere, and all texts are escaped.

    Args:
        report: What the run measured.
        figures: PNG files by name, as in the run folder's `plots`: those of `utils.plots.plot_metrics`, and the
            pictures of both models' predictions, "example-1", ..., "difference-1", ...
        missing: What the page says of figures that there should be.
    """
    before, after, data = report.before, report.after, report.args["data"]
    if isinstance(data, Mapping):  # of keys that were given themselves, where the run wrote them
        data = "data.yaml of the run folder"
    lost = [f"{line}." for line in report.losses(report.args["export"]["max_map_drop"])] if report.files else []
    busy = (
        [f"{report.timed.warning[:1].upper()}{report.timed.warning[1:]}."]
        if report.timed and report.timed.warning
        else []
    )
    now = _figures(after, report.worth)
    loader = PackageLoader("depgraph_hsic_only", "report")
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return pages.get_template("page.html.jinja").render(
        report=report,
        name=Path(report.args["pretrained"]).name,
        cards=[(title, figure, now[title]) for title, figure in _figures(before, before.map50_95).items()],
        warnings=[*missing, *lost, *find_warnings(report.stages, report.images, report.files), *busy],
        others=other_texts(report.files),
        titles=TITLES,
        stages=stage_table(report.stages, report.validation, report.measured_on),
        parts=part_table(before.parts, after.parts),
        classes=class_table(before, after, exact=report.worth == after.map50_95),
        latency=latency_table(before, after, report.measured_on),
        files=exported_table(report.files, report.task),
        rivals=rival_table(after, report.worth, report.validation.imgsz, report.rivals),
        search=None if (search := searched(report.stages)) is None else search_table(search, after.primary),
        how_chosen=None if search is None else how_chosen(search),
        figures={name: "data:image/png;base64," + base64.b64encode(png).decode() for name, png in figures.items()},
        examples=_pictures(report, "example"),
        differences=_pictures(report, "difference"),
        command=f"python -m depgraph_hsic_only --cfg {shlex.quote(str(report.folder / 'args.yaml'))}",
        best=str(report.folder / "weights" / "best.pt"),
        primary=after.primary,
        compared=COMPARED[report.task],
        data=data,
    )


def _figures(stage: StageReport, worth: Mapping[str, float]) -> dict[str, str]:
    """What stands at the top of the page, by title; the model is `worth` the mAP50-95 of what is deployed, by kind."""
    return {
        "parameters": f"{stage.parameters:,}",
        "GMACs": f"{stage.gmacs:.3f}",
        "checkpoint, MB": figure_text(stage.size_mb, ".2f"),
        "latency, ms": figure_text(stage.deployed_ms, ".1f"),
        **{f"{kind} mAP50-95": figure_text(worth.get(kind), ".3f") for kind in primary_first(stage)},
    }


def _pictures(report: RunReport, kind: str) -> list[tuple[str, ImageAgreement]]:
    """Name of the figure and the agreement, of each image of a kind."""
    if report.agreement is None:
        return []
    rows = {"example": report.agreement.examples, "difference": report.agreement.differing}[kind]
    return [(f"{kind}-{k}", row) for k, row in enumerate(rows, 1)]
