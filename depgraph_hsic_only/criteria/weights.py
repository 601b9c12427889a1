"""Criteria read off the weights alone."""

import hashlib

import torch
import torch_pruning as tp

from depgraph_hsic_only.channels.groups import ChannelGroup
from depgraph_hsic_only.criteria.registry import register_criterion


@register_criterion("magnitude")
def magnitude(group: ChannelGroup) -> torch.Tensor:
    """Group L2: squared weights that a channel passes through, averaged over the modules (Fang et al. 2023, eq. 5)."""
    return _group_norm(group, p=2)


@register_criterion("l1")
def l1(group: ChannelGroup) -> torch.Tensor:
    """Group L1: as `magnitude`, with absolute instead of squared weights (Li et al. 2017, arXiv:1608.08710)."""
    return _group_norm(group, p=1)


def _group_norm(group: ChannelGroup, p: int) -> torch.Tensor:
    # Unnormalised: the mean of an all-zero group is 0, and scores are compared within a group only.
    scores: torch.Tensor = tp.importance.GroupMagnitudeImportance(p=p, normalizer=None)(group.dependencies[0])
    return scores


@register_criterion("bn_scale")
def bn_scale(group: ChannelGroup) -> torch.Tensor:
    """Absolute BatchNorm scales, averaged over the group's BatchNorms (Liu et al. 2017, arXiv:1708.06519).

    One group has no BatchNorm, the prototypes' upsampling: its channels are ranked by `magnitude`.
    """
    if not any(member.role == "norm" for member in group.members):
        return magnitude(group)
    scores: torch.Tensor = tp.importance.BNScaleImportance(normalizer=None)(group.dependencies[0])
    return scores


@register_criterion("random")
def random(group: ChannelGroup, *, seed: int = 0) -> torch.Tensor:
    """Uniform random scores: the control. The same seed gives a group the same scores whatever else is pruned."""
    digest = hashlib.sha256(f"{seed}:{group.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.rand(group.channels, generator=generator)
