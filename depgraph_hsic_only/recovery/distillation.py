"""Label-free distillation: the cut network learns the original's predictions on calibration images.

What is minimised is the divergence of the predictions (see `divergence.py`) on the images, varied at random (see
`augmentation.varied`), since a few hundred are soon learnt by heart, with BatchNorm in evaluation mode, so that nothing
depends on the batch (after Hinton et al. 2015, arXiv:1503.02531, with the original as teacher and no labels).
"""

import math
import time
from collections.abc import Iterator
from typing import Any

import torch

from depgraph_hsic_only.recovery.augmentation import varied
from depgraph_hsic_only.recovery.divergence import divergence
from depgraph_hsic_only.recovery.layerwise import evaluating
from depgraph_hsic_only.yolo.predictions import raw_predictions
from depgraph_hsic_only.yolo.types import Network

_RATE = 1e-4  # learning rate of AdamW; at 3e-4 and above the predictions get worse before they get better, if they do
_WARM_UP = 10  # steps
_CLIP = 10.0  # largest norm of a gradient


def distill(
    student: Network,
    teacher: Network,
    images: torch.Tensor,
    *,
    seconds: float,
    steps: int | None,
    batch: int,
    seed: int,
) -> Iterator[float]:
    """Train the student in place; yields after each step the share of the budget that is used up, in (0, 1].

    The budget, along which the learning rate falls to 0, is of seconds, or of steps where these are given: then the
    result does not depend on the machine's speed. The student's parameters take gradients from then on. The images are
    (n, c, h, w), float in [0, 1] or uint8, so many to a `batch`.
    """
    generator = torch.Generator().manual_seed(seed)
    student.requires_grad_(True)
    trained = [p for name, p in student.named_parameters() if ".dfl." not in name]  # a constant
    optimizer = torch.optim.AdamW(trained, lr=_RATE, betas=(0.9, 0.99), weight_decay=0.0)
    device, start, step, used = trained[0].device, time.perf_counter(), 0, 0.0
    with evaluating(student), evaluating(teacher), torch.enable_grad():
        while used < 1:
            x = varied(images, batch, generator).to(device)
            with torch.no_grad():
                wanted = raw_predictions(teacher, x)
            for group in optimizer.param_groups:
                group["lr"] = _RATE * min(1.0, (step + 1) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * used))
            optimizer.zero_grad()
            loss: Any = divergence(raw_predictions(student, x), wanted).total
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, _CLIP)
            optimizer.step()
            step += 1
            spent = time.perf_counter() - start
            used = step / steps if steps is not None else (spent + spent / step) / seconds
            yield min(used, 1.0)
