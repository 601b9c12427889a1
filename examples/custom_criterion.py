"""A criterion of your own: one function from a group of coupled channels to a score for each.

    python examples/custom_criterion.py                                                  random weights: to see it run
    python examples/custom_criterion.py --weights best.pt --data data.yaml --imgsz 640   what it is worth on your model

The criterion here is the geometric median (He et al. 2019, arXiv:1811.00250): a filter in the middle of all filters of
its layer is like many others and can go; a filter far from the others is unlike any and stays.
"""

import argparse
import copy
import sys

import torch
from torch import nn

from depgraph_hsic_only import (
    ChannelGroup,
    PruningError,
    PruningPlan,
    apply_plan,
    find_dataset,
    load_images,
    load_model,
    plan_pruning,
    register_criterion,
)

BUILT_IN = ("magnitude", "random")


@register_criterion("geometric_median")
def geometric_median(group: ChannelGroup) -> torch.Tensor:
    """(C,), higher stays: distance of each filter to all others, summed over the convolutions that make it."""
    scores = torch.zeros(group.channels)
    for member in group.members:
        if member.role == "output":
            weight = member.module.weight.detach()  # (outputs, inputs, k, k)
            if isinstance(member.module, nn.ConvTranspose2d):  # (inputs, outputs, k, k)
                weight = weight.transpose(0, 1)
            filters = weight[member.index].flatten(1)
            scores.index_add_(0, member.channel, torch.cdist(filters, filters).sum(1).cpu())
    return scores


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare a criterion of one's own with built-in ones.")
    parser.add_argument("--weights", default="yolo11n-seg.yaml", help="checkpoint (.pt); a YAML has random weights")
    parser.add_argument("--ratio", type=float, default=0.25, help="share of the channels to cut")
    parser.add_argument("--data", help="data.yaml or 'shapes': measure the damage too, on its training images")
    parser.add_argument("--imgsz", type=int, default=160, help="side of these images, pixels")
    parser.add_argument("--images", type=int, default=64, help="how many of them")
    args = parser.parse_args(argv)
    try:
        yolo = load_model(args.weights)
        images = (
            load_images(find_dataset(args.data, yolo.task).images("train"), args.imgsz, limit=args.images)
            if args.data
            else None
        )
        plans = {name: plan_pruning(yolo, args.ratio, criterion=name) for name in (*BUILT_IN, "geometric_median")}
        for name, plan in plans.items():
            print(f"{name}: keeps {agreement(plan, plans['magnitude']):.0%} of the channels that magnitude keeps")
            if images is not None:
                report = apply_plan(copy.deepcopy(yolo), plan, recovery="least_squares", images=images)
                print(f"    {report.recovery}")
    except PruningError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def agreement(plan: PruningPlan, other: PruningPlan) -> float:
    """Share of the channels that a plan keeps which another plan keeps too, in [0, 1]."""
    pairs = [(set(a.keep), set(b.keep)) for a, b in zip(plan.groups, other.groups, strict=True)]
    return sum(len(a & b) for a, b in pairs) / sum(len(a) for a, _ in pairs)


if __name__ == "__main__":
    sys.exit(main())
