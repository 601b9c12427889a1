"""The settings of `--demo`: a nano model that learns drawn shapes in minutes, is cut, and learns again."""

from typing import Any, Final

_FINE_TUNE: Final = {"epochs": 5, "lr0": 0.001, "warmup_epochs": 0.25}  # shorter and gentler, of the same kind


def demo_settings() -> dict[str, Any]:
    """The settings, by their dotted keys."""
    from depgraph_hsic_only.data.shapes import SHAPES_RECIPE

    return {
        "pretrained": "yolov8n-seg.yaml",
        "data": "shapes",
        "imgsz": 160,
        "name": "demo",
        "workers": 2,
        **{f"train.{key}": value for key, value in SHAPES_RECIPE.items()},
        **{f"fine_tune.{key}": value for key, value in (SHAPES_RECIPE | _FINE_TUNE).items()},
    }
