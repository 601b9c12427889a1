"""Entries of the table for heads."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ultralytics.nn.modules import DFL, OBB, Detect, Pose, Segment
from ultralytics.nn.modules.head import OBB26, Pose26, Segment26

from depgraph_hsic_only.yolo.blocks.block import HIDDEN_MULTIPLE, OUTPUT_MULTIPLE, Block, Tie, Width

ONE_TO_ONE = "one2one_"  # before the names of an end-to-end head's second branches
_BINS, _LEAST_BINS, _BIN_MULTIPLE = "reg_max", 4, 2  # fewer don't make the branch narrower; by two that is by 8


def is_end_to_end(head: Any) -> bool:
    """Whether a head has one-to-one branches beside the one-to-many ones."""
    return getattr(head, f"{ONE_TO_ONE}cv2", None) is not None


def idle(head: Any) -> tuple[str, ...]:
    """Names of a head's children that take no part when it predicts: training alone has use for them.

    Of an end-to-end head's two sets of branches those are the one that it does not predict with.
    """
    names = [name for name, _ in head.named_children()]
    first = {name.removeprefix(ONE_TO_ONE) for name in names if name.startswith(ONE_TO_ONE)}
    unused = first if head.end2end else {ONE_TO_ONE + name for name in first}
    own = {"flow_model", "proto.semseg", "cv4_sigma", f"{ONE_TO_ONE}cv4_sigma"}
    return tuple(name for name in (*names, "proto.semseg") if name in unused | own)


def is_constant(path: str) -> bool:
    """Whether a convolution, by its path, is the mean over a distribution's bins, which Ultralytics writes as one."""
    return path.endswith(".dfl.conv")


def auxiliary(head: Any) -> tuple[Any, ...]:
    """The modules by whose own `training` a head computes what training alone has use for, without decoding."""
    return (head, head.proto) if hasattr(head, "proto") else (head,)


def prototypes(head: Any, inputs: Sequence[Any]) -> Any:
    """What a segmentation head's prototypes are made from its inputs: from all, or from the first."""
    return head.proto(inputs if type(head) is Segment26 else inputs[0])


def _branch(head: Any, name: str, child: str, tie: Tie) -> Width:
    """The hidden width of a head's branch, of its one-to-one copy too: two convolutions at each scale have it."""
    children = [child, *([ONE_TO_ONE + child] if is_end_to_end(head) else [])]
    first = getattr(head, child)[0][0]
    # In the light branch for the classes each is the second of a pair, behind a depthwise one.
    convolutions = [f"{conv}.{'conv' if hasattr(first, 'conv') else '1.conv'}" for conv in (0, 1)]
    paths = tuple(f"{c}.{k}.{path}" for c in children for k in range(head.nl) for path in convolutions)
    return Width(name, head.get_submodule(paths[0]).out_channels, HIDDEN_MULTIPLE, paths, tie)


def _bins(head: Any) -> Iterator[Width]:
    """The bins of the distributions of a box's four distances, where there are distributions."""
    if head.reg_max > 1:
        children = ["cv2", *([f"{ONE_TO_ONE}cv2"] if is_end_to_end(head) else [])]
        paths = tuple(f"{child}.{k}.2" for child in children for k in range(head.nl))
        yield Width(_BINS, head.reg_max, _BIN_MULTIPLE, paths, least=min(head.reg_max, _LEAST_BINS), bins=True)


def _detect_widths(head: Any, index: int, read: Sequence[str]) -> tuple[Width, ...]:
    to, bins, classes = read[0], tuple(_bins(head)), min(head.nc, 100)
    boxes = Tie((to,), lambda w: max(w // 4, 16), f"max({to} / 4, 16)")
    if bins:
        boxes = Tie((to, _BINS), lambda w, r: max(w // 4, 16, 4 * r), f"max({to} / 4, 16, 4 {_BINS})")
    return (
        *bins,
        _branch(head, "box", "cv2", boxes),
        _branch(head, "class", "cv3", Tie((to,), lambda w: max(w, classes), f"max({to}, {classes})")),
    )


def _with_third(name: str, least: Callable[[Any], int]) -> Callable[[Any, int, Sequence[str]], tuple[Width, ...]]:
    """Widths of a head with a third branch, `cv4`, of at least so many channels."""

    def widths(head: Any, index: int, read: Sequence[str]) -> tuple[Width, ...]:
        to, channels = read[0], least(head)
        tie = Tie((to,), lambda w: max(w // 4, channels), f"max({to} / 4, {channels})")
        return *_detect_widths(head, index, read), _branch(head, name, "cv4", tie)

    return widths


def _segment_widths(head: Any, index: int, read: Sequence[str]) -> tuple[Width, ...]:
    known = ("proto.cv1.conv", "proto.upsample", "proto.cv2.conv", "proto.feat_fuse.conv")
    made = [path for path in (*known, "proto.semseg.0.conv", "proto.semseg.1.conv") if _has(head, path)]
    prototypes = Width("npr", head.proto.cv1.conv.out_channels, OUTPUT_MULTIPLE, tuple(made), None, OUTPUT_MULTIPLE)
    return *_with_third("mask", lambda head: head.nm)(head, index, read), prototypes


def _has(head: Any, path: str) -> bool:
    try:
        head.get_submodule(path)
    except AttributeError:
        return False
    return True


def _segment_row(head: Any, args: list[Any]) -> list[Any]:
    return [args[0], head.nm, head.proto.cv1.conv.out_channels]


def _keep_bins(head: Any) -> None:
    if (bins := head.cv2[0][2].out_channels // 4) != head.reg_max:
        head.reg_max, head.no = bins, head.nc + 4 * bins
        head.dfl = DFL(bins).to(head.dfl.conv.weight).train(head.dfl.training)


def _keep_bins_and_prototypes(head: Any) -> None:
    _keep_bins(head)
    head.npr = head.proto.cv1.conv.out_channels


def _head_part(head: Any, path: str) -> Callable[[Any], object]:
    """Of a head one branch at one scale, or the prototypes, which read the first scale or all."""
    branch, scale = path.split(".")[:2]
    if branch == "proto":
        return lambda x: prototypes(head, x)
    behind = [getattr(head, name)[int(scale)] for name in _behind(head, branch)]

    def run(x: Any) -> object:
        out = x[int(scale)]
        for part in behind:
            out = part(out)
        return out

    return run


def _behind(head: Any, branch: str) -> Iterator[str]:
    """A branch of a head, after the one whose outputs it reads."""
    stem, found, _ = branch.rpartition("cv4_")
    if found:
        yield f"{stem}cv4"
    yield branch


_BRANCHES = {"cv2": "boxes", "cv3": "classes"}
_INTEGER = r"(one2one_)?cv\d\.\d/(one2one_)?cv\d\.\d\.[01]"  # all but the last convolution of each branch


def _head(
    kind: Any, widths: Callable[[Any, int, Sequence[str]], Sequence[Width]], third: str = "", **own: Any
) -> Block:
    found = _BRANCHES | ({"cv4": third} if third else {}) | own.pop("branches", {})
    branches = found | {ONE_TO_ONE + name: part for name, part in found.items() if name.startswith("cv")}
    return Block(
        kind,
        widths,
        branches=branches,
        part=_head_part,
        measure=own.pop("measure", _keep_bins),
        **{"integer": _INTEGER} | own,
    )


def _segment(kind: Any) -> Block:
    return _head(
        kind,
        _segment_widths,
        "masks",
        row=_segment_row,
        measure=_keep_bins_and_prototypes,
        branches={"proto": "prototypes"},
        integer=f"{_INTEGER}|proto",
    )


HEADS = (
    _segment(Segment),
    _segment(Segment26),
    _head(Detect, _detect_widths),
    _head(Pose, _with_third("keypoint", lambda head: head.nk), "keypoints"),
    _head(
        Pose26,
        _with_third("keypoint", lambda head: head.kpt_shape[0] * (head.kpt_shape[1] + 2)),
        "keypoints",
        branches={"cv4_kpts": "keypoints", "cv4_sigma": "keypoints", "flow_model": "keypoints"},
    ),
    _head(OBB, _with_third("angle", lambda head: head.ne), "angles"),
    _head(OBB26, _with_third("angle", lambda head: head.ne), "angles"),
)
