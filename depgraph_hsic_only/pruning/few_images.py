"""What can be cut where there are few images: as much as a re-fit on some of them carries over to the others.

A re-fit on two photographs does what it should on these, and a model that has lost a fifth of its parameters finds
nothing elsewhere: on the images that it was fitted to, the divergence of the predictions was 1.2, on 39 others 18 (see
`recovery.divergence`; YOLOv8n-seg). Fitted on one of the two and measured on the other it is 17 and 20, which tells.
"""

import warnings
from fractions import Fraction

import torch

from depgraph_hsic_only.channels.cut import cut
from depgraph_hsic_only.channels.limits import Limits
from depgraph_hsic_only.channels.plan import PruningPlan, make_plan
from depgraph_hsic_only.channels.widths import partial_widths
from depgraph_hsic_only.data.images import spread
from depgraph_hsic_only.errors import DataError
from depgraph_hsic_only.pruning.planner import Scored
from depgraph_hsic_only.recovery.recover import mean_distance, recover
from depgraph_hsic_only.report.pruning_report import CARRIED
from depgraph_hsic_only.yolo.types import Network

_JUDGED = 16  # of which at most so many are judged by
_TRIALS = 6  # of parts of the cut


def divergence_elsewhere(network: Network, plan: PruningPlan, images: torch.Tensor, method: str) -> float:
    """How far a cut moves the predictions on images that its recovery has not seen: the mean divergence.

    Each half of the images (at most 16 of them, at least 2) is measured on after a recovery from the other half by the
    same `method`. The network is left as it is.
    """
    images = images[spread(len(images), _JUDGED)]
    total = 0.0
    for fitted, others in ((images[::2], images[1::2]), (images[1::2], images[::2])):
        found = cut(network, plan)
        if method != "none":
            recover(found.network, network, found.kept, fitted, method=method)
        total += mean_distance(found.network, network, others) * len(others)
    return total / len(images)


def carried_plan(
    plan: PruningPlan, scored: Scored, limits: Limits, images: torch.Tensor, method: str
) -> tuple[PruningPlan, float]:
    """The largest of some parts of a plan that the recovery carries, and how far it moves the predictions elsewhere.

    The parts are the whole, and others by bisection of the way from the full widths to it; where the predictions move
    too far with each of them (see `pruning_report.CARRIED`), nothing is cut, with a warning.

    Raises:
        DataError: There are fewer than two images.
    """
    if len(images) < 2:
        raise DataError(
            f"expected at least 2 different images to see how much can be cut, got {len(images)}; pass images= (a "
            "folder or your data.yaml, 64 or more), or say how much by ratio=, threshold= or target="
        )
    graph, scores, found = scored.graph, scored.measured.scores, None
    least, most, share = Fraction(0), Fraction(1), Fraction(1)
    for _ in range(_TRIALS):
        widths = partial_widths(graph, plan.after, share, limits)
        way = f"{float(share):.0%} of the way to " if share < 1 else ""
        reasons = {width.name: way + width.reason for width in plan.widths}
        part = make_plan(graph, scores, widths, criterion=plan.criterion, reasons=reasons)
        moved = 0.0 if part.cuts_nothing else divergence_elsewhere(scored.network, part, images, method)
        if moved > CARRIED:
            most = share
        else:
            least, found = share, (part, moved)
        if least == most:
            break
        share = (least + most) / 2
    if found is not None and (not found[0].cuts_nothing or plan.cuts_nothing):
        return found
    warnings.warn(f"nothing is cut: {len(images)} images carry no part of it; pass images=", UserWarning, stacklevel=3)
    reasons = dict.fromkeys(graph.full, f"uncut: {len(images)} images carry no part of it")
    return make_plan(graph, scores, graph.full, criterion=plan.criterion, reasons=reasons), 0.0
