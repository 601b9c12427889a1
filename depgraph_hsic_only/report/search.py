"""What a search over image sizes and precisions has tried, as a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from depgraph_hsic_only.report.stages import StageReport
from depgraph_hsic_only.report.tables import Sheet, figure_text


def searched(stages: Sequence[StageReport]) -> Mapping[str, Any] | None:
    """`details.search` of the stage that searched: `images`, and `candidates` as `axes.candidates.Candidate` has them.

    None where none did.
    """
    return next((stage.details["search"] for stage in stages if stage.details.get("search")), None)


def search_table(search: Mapping[str, Any], kind: str) -> Sheet:
    """The candidates in the order in which they were tried, whose score is an mAP of a `kind`."""
    tuned = any(row.get("tuned") is not None for row in search["candidates"])
    trained = ["fine-tuned, on\nvalidation"] * tuned
    lines = tuple(
        (
            f"{row['imgsz']}",
            row["precision"],
            figure_text(row["parameters"], ","),
            figure_text(row["gmacs"], ".3f"),
            figure_text(row["score"], ".4f"),
            figure_text(row["lost"], ".4f"),
            *[figure_text(row.get("tuned"), ".4f")] * tuned,
            f"{row['seconds']:.0f}",
            "chosen" if row["chosen"] else row["why"] or ("" if row["cut"] else "nothing was cut"),
        )
        for row in search["candidates"]
    )
    maps = (f"{kind}\nmAP50-95", "lost by\nprecision", *trained)
    headings = ("px", "precision", "parameters", "GMACs", *maps, "time\ns", "")
    title = f"Candidates for the target, untrained, on {search['images']} training images that none was fitted to"
    return Sheet(title, headings, lines, f"rlrrrr{'r' * tuned}rt")


def how_chosen(search: Mapping[str, Any]) -> str:
    """By what images the candidate was chosen, in words."""
    if any(row.get("tuned") is not None for row in search["candidates"]):
        return (
            "The finalists were planned again for the target, cut, recovered on all calibration images and fine-tuned "
            "alike, and the best of them on the validation images is what follows."
        )
    return (
        "The validation images had no part in the choice. The best one was planned again for the target, recovered on "
        "all calibration images where that has cut anything, and is what follows."
    )
