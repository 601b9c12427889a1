"""The Taylor criterion: how much would the training loss change without this channel?"""

import torch
from torch import nn

from depgraph_hsic_only.channels.groups import ChannelGraph, ChannelGroup
from depgraph_hsic_only.criteria.registry import Batches, Criterion, register_criterion
from depgraph_hsic_only.criteria.weights import by_position
from depgraph_hsic_only.errors import DataError
from depgraph_hsic_only.yolo.load import with_loss_arguments


@register_criterion("taylor")
class Taylor(Criterion):
    """First-order Taylor expansion of the training loss (Molchanov et al. 2019, arXiv:1906.10771, eq. 8).

    A channel's importance is the sum over the group's modules of |Σ w · ∂L/∂w|, the first-order change of the loss when
    the channel's weights (filters, BatchNorm scale and shift, the consumers' inputs) go to zero; gradients are those of
    the summed loss of all batches. torch-pruning's own skips BatchNorm, since it tests for the GroupNorm handler.
    """

    needs_batches = True

    def score(self, graph: ChannelGraph, batches: Batches | None) -> dict[str, torch.Tensor]:
        """Accumulate the loss gradients of all batches on the graph's model, then score each group."""
        model, seen = graph.model, 0
        network, training = with_loss_arguments(model), model.training
        model.train()
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.eval()  # the statistics of the trained model, unchanged
        model.zero_grad()
        device = next(model.parameters()).device
        for batch in batches or ():
            batch = {key: t.to(device) if isinstance(t, torch.Tensor) else t for key, t in batch.items()}
            if batch["img"].dtype == torch.uint8:
                batch["img"] = batch["img"].float() / 255
            with torch.enable_grad():
                loss, _ = network(batch)
                loss.sum().backward()
            seen += len(batch["img"])
        model.train(training)
        if not seen:
            raise DataError("criterion taylor: expected labelled batches, got none; pass batches= or a data set")
        return {group.name: first_order(group) for group in graph.groups}


def first_order(group: ChannelGroup) -> torch.Tensor:
    """The score (C,) of each channel, float64, from the gradients that the group's modules hold."""
    score = torch.zeros(group.channels, dtype=torch.float64)
    for member in group.members:
        for name, weight in member.module.named_parameters(recurse=False):
            if weight.grad is None or (member.role == "input" and name == "bias"):
                continue
            change = by_position(member, (weight.detach() * weight.grad).double()).sum(1)
            score.index_add_(0, member.channel, change.abs().cpu()[member.index])
    return score
