"""A network run layer by layer over all calibration images, so that each layer is worked on where it stands."""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from depgraph_hsic_only.yolo.blocks import auxiliary as auxiliary_modules
from depgraph_hsic_only.yolo.predictions import last_readers, layer_input
from depgraph_hsic_only.yolo.types import Network

_PIXELS = 8 * 320 * 320  # of a batch: memory of a backward pass grows with it
_KEPT = 2**30  # bytes of activations kept between layers; past it they are computed again from the last ones kept


class LayerwisePass:
    """The activations in front of one layer of a network after the other, for all images.

    What the layers to come will read is kept, where it fits; where it doesn't, it is computed again from what was kept
    before. Layers behind may be changed at any time: nothing of them has been computed.

    The network is in evaluation mode (see `evaluating`). The images are (n, c, h, w), float in
    [0, 1] or uint8, on any device; so many as a `batch` go through a layer at a time, and so many bytes may be `kept`.
    `index` is that of the layer at hand, `last` that of the head.
    """

    def __init__(self, network: Network, images: torch.Tensor, *, batch: int = 8, kept: int = _KEPT) -> None:
        self.network, self._budget = network, kept
        self._device = next(network.parameters()).device
        self._states: list[dict[int, torch.Tensor]] = [{-1: part} for part in torch.split(images, batch)]
        self.index = self._at = 0
        self.last = len(network.model) - 1
        self._last_reader = last_readers(network)

    def fork(self, network: Network) -> "LayerwisePass":
        """A pass from here through another network whose layers before this one are the same."""
        fork = copy.copy(self)
        fork.network = network
        return fork

    @property
    def layer(self) -> Any:
        """The layer at hand."""
        return self.network.model[self.index]

    def inputs(self) -> Iterator[Any]:
        """What the layer at hand reads, batch by batch: a tensor, or a list of tensors."""
        for state in self._states:
            yield self._read(self._run(state, self.index), self.index)

    def step(self, *, every: bool = False) -> None:
        """Go on to the next layer; where `every` batch is to go through the one at hand, once, for who taps it."""
        self.index += 1
        first = self._run(self._states[0], self.index)
        rest = (self._run(state, self.index) for state in self._states[1:])
        if sum(t.nbytes for t in first.values()) * len(self._states) <= self._budget:
            self._states = [first, *rest]
            self._at = self.index
        elif every:
            for _ in rest:
                continue

    def _read(self, state: dict[int, torch.Tensor], i: int) -> Any:
        images = {-1: as_input(state[-1], self._device)} if -1 in state else {}
        return layer_input(self.network, i, state | images)

    @torch.no_grad()
    def _run(self, state: dict[int, torch.Tensor], stop: int) -> dict[int, torch.Tensor]:
        """What layers from `stop` on need, from what the layers from the last kept ones on need."""
        state = dict(state)
        for i in range(self._at, stop):
            state[i] = self.network.model[i](self._read(state, i))
            state = {j: t for j, t in state.items() if self._last_reader.get(j, -1) > i}
        return state


def batch_size(images: torch.Tensor) -> int:
    """How many of the images (n, c, h, w) go through a network at a time."""
    return max(1, _PIXELS // (images.shape[2] * images.shape[3]))


def as_input(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Images as a network reads them: float32 in [0, 1], on its device.

    On a CPU their channels come last in memory, and with them those of all activations: convolutions are a quarter
    faster so, and pooling many times.
    """
    images = images.to(device)
    x = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    return x.contiguous(memory_format=torch.channels_last) if device.type == "cpu" else x


@contextmanager
def evaluating(network: Network, *, auxiliary: bool = False) -> Iterator[Any]:
    """`network` in evaluation mode for as long as the context lasts.

    With what is `auxiliary`, its head decodes nothing, and what it has for training alone runs too, such as the
    semantic segmentation beside YOLO26's prototypes.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    for module in auxiliary_modules(network.model[-1]):
        module.training = auxiliary  # its own: every BatchNorm in it stays in evaluation mode
    try:
        yield network
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def tapped(
    network: Network, names: Iterable[str], tap: Callable[[str, Any, torch.Tensor, torch.Tensor], None]
) -> Iterator[None]:
    """`tap(name, module, input, output)` is called whenever one of the named modules of a network has run."""
    with ExitStack() as stack:
        for name in names:

            def hook(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor, name: str = name) -> None:
                tap(name, module, inputs[0], output)

            stack.callback(network.get_submodule(name).register_forward_hook(hook).remove)
        yield
