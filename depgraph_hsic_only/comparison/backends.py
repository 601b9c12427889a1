"""Where the parts are done: one after the other in this process, or side by side on Ray."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from depgraph_hsic_only.comparison.options import BACKENDS
from depgraph_hsic_only.comparison.parts import Part
from depgraph_hsic_only.criteria.registry import list_criteria, register_criterion, registered_criterion
from depgraph_hsic_only.errors import ConfigError, one_line
from depgraph_hsic_only.support.nearest import nearest
from depgraph_hsic_only.support.progress import say

_LOST = 3  # times that a part is tried again where its worker was lost


Backend = Callable[[Sequence[Part]], dict[str, str]]
"""Does parts that don't need each other, and says of those that failed why, by name."""


def in_turn(parts: Sequence[Part]) -> dict[str, str]:
    """Do the parts in this process."""
    failed: dict[str, str] = {}
    for k, part in enumerate(parts, 1):
        say(f"{part.name} ({k} of {len(parts)})")
        if (error := part.attempt()) is not None:
            say(f"{part.name} failed: {error}")
            failed[part.name] = error
    return failed


@contextmanager
def open_backend(
    name: str, *, address: str | None, task_cpus: float, task_gpus: float | None, device: Any
) -> Iterator[Backend]:
    """A backend by name, until the end of the context.

    Args:
        name: "serial" or "ray".
        address: Of a Ray cluster: "auto", "host:port" or "ray://host:port"; None for this process's cluster, where it
            has one, else a new one on this machine. All nodes must see the data set, the checkpoint and the
            comparison's folder under the same paths, and have this package.
        task_cpus: Cores of a part on Ray.
        task_gpus: GPUs of a part on Ray; None for one where the device is not the CPU and this machine has any.
        device: As Ultralytics takes it.
    """
    if name not in BACKENDS:
        raise ConfigError(f"backend: expected one of {', '.join(BACKENDS)}, got {name!r}{nearest(name, BACKENDS)}")
    if name == "serial":
        if address is not None:
            raise ConfigError(f"address: expected none without Ray, got {address!r}; pass --backend ray too")
        yield in_turn
        return
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "backend: expected the package ray for 'ray', but it is not installed; "
            "pip install 'depgraph-hsic-only[ray]'"
        ) from error
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(address=address, log_to_driver=False, **({} if address else {"include_dashboard": False}))
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"address: expected a Ray cluster at {address!r}, but there is none to reach ({one_line(error)}); "
                "start one with 'ray start --head', or leave the address out"
            ) from error
    gpus = float(device != "cpu" and torch.cuda.is_available()) if task_gpus is None else task_gpus
    try:
        task = ray.remote(num_cpus=task_cpus, num_gpus=gpus, max_retries=_LOST)(_attempt)
        yield partial(_on_ray, ray, task)
    finally:
        if ours:
            ray.shutdown()


def _on_ray(ray: Any, task: Any, parts: Sequence[Part]) -> dict[str, str]:
    """Do parts as Ray tasks. What a part raises is its failure; a part whose worker is lost is tried again."""
    own = {name: registered_criterion(name) for name in list_criteria()}
    running = {task.remote(part, own): part for part in parts}
    failed: dict[str, str] = {}
    while running:
        (done,), _ = ray.wait(list(running), num_returns=1)
        part = running.pop(done)
        try:
            error = ray.get(done)
        except ray.exceptions.RayError as lost:
            error = f"its worker was lost {1 + _LOST} times ({one_line(lost)})"
        if error is not None:
            failed[part.name] = error
        say(f"{part.name} failed: {error}" if error is not None else f"{part.name} is done ({len(running)} to go)")
    return failed


def _attempt(part: Part, criteria: Mapping[str, Callable[..., Any]]) -> str | None:
    """Do a part in another process, which has to know the criteria that were registered in the first one."""
    for name, registered in criteria.items():
        if name not in list_criteria():
            register_criterion(name)(registered)
    return part.attempt()
