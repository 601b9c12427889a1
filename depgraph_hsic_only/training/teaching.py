"""Training hooks that let Ultralytics' distillation begin where a cut model is: with features like the teacher's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate
from ultralytics.utils.torch_utils import unwrap_model

_SHIFT = 1.0  # SiLU is never below -0.28


@dataclass(frozen=True)
class IdentityProjectors:
    """Callback for "on_pretrain_routine_end": lets distillation compare features as they are, from the first step on.

    Ultralytics' distillation puts the student's features through a projector of two random 1×1 convolutions with a ReLU
    in between, which would have to be learnt first. The features of a cut model are some of the original's, so the
    projector starts as what puts each where it was: the identity, shifted past the ReLU's kink and back.

    Attributes:
        kept: For each input of the head, the original's channels that the student has, ascending; None for all.
    """

    kept: tuple[tuple[int, ...] | None, ...]

    def __call__(self, trainer: Any) -> None:
        """Set the projectors' weights; a training that is resumed has its own."""
        projectors = getattr(unwrap_model(trainer.model), "projector", None)
        if projectors is None or trainer.start_epoch > 0:
            return
        for (first, _, last), kept in zip(projectors, self.kept, strict=True):
            channels = range(len(last.weight)) if kept is None else kept
            for conv, shift in ((first, _SHIFT), (last, -_SHIFT)):
                nn.init.zeros_(conv.weight)
                nn.init.constant_(conv.bias, shift)
            with torch.no_grad():
                last.weight[range(len(last.weight)), range(len(last.weight))] = 1.0
                first.weight[list(channels), range(len(channels))] = 1.0


@dataclass(frozen=True)
class TeacherAt:
    """Callback for "on_pretrain_routine_end": a student of smaller images is taught by what is seen in larger.

    On images below those that it was trained on, the teacher itself is worse, and so is what can be learnt from it. It
    is given the batch enlarged to its own side, and its features are resampled to the student's grid, where its head
    says again how much each place counts. Learning across image sizes: Qi et al. 2021, Multi-Scale Aligned
    Distillation for Low-Resolution Detection.

    Attributes:
        side: Of the teacher's images, pixels; nothing is changed where the student's are as large.
    """

    side: int

    def __call__(self, trainer: Any) -> None:
        """Set hooks on the teacher, which is loaded anew by a training that is resumed."""
        wrapped = unwrap_model(trainer.model)
        teacher, share = getattr(wrapped, "teacher_model", None), self.side / trainer.args.imgsz
        if teacher is not None and share > 1:
            enlarged = _Enlarged(wrapped, share)
            teacher.register_forward_pre_hook(enlarged.before)
            teacher.register_forward_hook(enlarged.after)


class _Enlarged:
    """A teacher's pass on images that are larger than the student's by a factor."""

    def __init__(self, wrapped: Any, share: float) -> None:
        self.wrapped, self.share = wrapped, share
        self.size: Sequence[int] = ()  # of the student's images: height and width, pixels

    def before(self, teacher: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        """The images enlarged, to multiples of the coarsest stride."""
        (images,), stride = inputs, int(teacher.stride.max())
        self.size = images.shape[-2:]
        larger = [round(side * self.share / stride) * stride for side in self.size]
        return (interpolate(images, larger, mode="bilinear", align_corners=False),)

    def after(self, teacher: Any, inputs: object, outputs: object) -> None:
        """The features that the teacher's layers have left, and its head's outputs of them, on the student's grid."""
        left = self.wrapped._teacher_feats
        found = [
            interpolate(left[k].float(), [side // int(stride) for side in self.size], mode="bilinear", antialias=True)
            for k, stride in enumerate(teacher.stride)
        ]
        teacher.model[-1](list(found))  # which leaves its outputs there, too
        left |= dict(enumerate(found))
