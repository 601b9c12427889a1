"""Criteria read off the weights alone."""

import hashlib
from collections.abc import Sequence

import torch
from torch import nn

from depgraph_hsic_only.channels.groups import ChannelGroup, Member
from depgraph_hsic_only.criteria.registry import register_criterion


@register_criterion("magnitude")
def magnitude(group: ChannelGroup) -> torch.Tensor:
    """Group L2: squared weights that a channel passes through, averaged over the modules (Fang et al. 2023, eq. 5)."""
    return _mean_norm(group, group.members, 2)


@register_criterion("l1")
def l1(group: ChannelGroup) -> torch.Tensor:
    """Group L1: as `magnitude`, with absolute instead of squared weights (Li et al. 2017, arXiv:1608.08710)."""
    return _mean_norm(group, group.members, 1)


@register_criterion("bn_scale")
def bn_scale(group: ChannelGroup) -> torch.Tensor:
    """Absolute BatchNorm scales, averaged over the group's BatchNorms (Liu et al. 2017, arXiv:1708.06519).

    One group has no BatchNorm, the prototypes' upsampling: its channels are ranked by `magnitude`.
    """
    norms = [member for member in group.members if member.role == "norm"]
    return _mean_norm(group, norms, 1) if norms else magnitude(group)


@register_criterion("random")
def random(group: ChannelGroup, *, seed: int = 0) -> torch.Tensor:
    """Uniform random scores: the control. The same seed gives a group the same scores whatever else is pruned."""
    digest = hashlib.sha256(f"{seed}:{group.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.rand(group.channels, generator=generator)


def _mean_norm(group: ChannelGroup, members: Sequence[Member], p: int) -> torch.Tensor:
    """Σ |w|ᵖ (C,) of each channel's weights in a module, those of all its positions, averaged over the modules."""
    score = torch.zeros(group.channels)
    for member in members:
        norm = by_position(member, member.module.get_parameter("weight").detach()).abs().pow(p).sum(1)
        score.index_add_(0, member.channel, norm.float().cpu()[member.index])
    return score / len(members)


def by_position(member: Member, weight: torch.Tensor) -> torch.Tensor:
    """A parameter of a member's module as (positions, ·), along the dimension that its `index` counts."""
    transposed = isinstance(member.module, nn.ConvTranspose2d)
    dim = 1 if weight.ndim > 1 and (member.role == "input") != transposed else 0
    return weight.movedim(dim, 0).flatten(1) if weight.ndim > 1 else weight[:, None]
