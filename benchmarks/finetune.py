"""Training on from a cut and recovered model: this package's recipe against Ultralytics' defaults, at equal epochs.

    python benchmarks/finetune.py WEIGHTS DATA.yaml --cut params=0.83 --epochs 3 --seeds 2

Every arm is measured after its last epoch and at its best epoch by mask mAP, before anything is chosen between it and
what it started from. The paired control is the unpruned model, trained on with the same recipe and epochs; `smaller` is
a stock YOLOv8 of as many parameters by its width alone, from scratch and with what fits of the checkpoint.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from common import Bench, arguments
from measure import Measured, paired_interval
from ultralytics import YOLO
from ultralytics.nn.tasks import yaml_model_load

from depgraph_hsic_only import apply_plan, load_model
from depgraph_hsic_only.channels.cut import kept_channels
from depgraph_hsic_only.channels.plan import PruningPlan
from depgraph_hsic_only.recovery.recover import recover
from depgraph_hsic_only.training.provenance import trained_on
from depgraph_hsic_only.training.recipe import Start
from depgraph_hsic_only.training.train import Recipe, Teacher, make_recipe, train_model
from depgraph_hsic_only.utils.hooks import Callbacks

ARMS = "recipe,recipe/no teacher,defaults,unpruned/recipe,unpruned/defaults,smaller,smaller/loaded"


class Arms:
    """The models to start from, made once, and the trainings."""

    def __init__(self, bench: Bench, args: argparse.Namespace, folder: Path) -> None:
        self.bench, self.args, self.folder = bench, args, folder
        self.teacher = folder / "original.pt"
        bench.original.save(self.teacher)
        self.plan: PruningPlan = bench.plan(bench.widths(args.cut, args.criterion), args.criterion)
        self.cut = load_model(bench.weights)
        apply_plan(self.cut, self.plan)
        recover(self.cut, bench.original, self.plan, bench.images, seed=bench.seed)
        self.taught = Teacher(self.teacher, bench.original, kept_channels(bench.original.model, self.plan))
        self.recovered = bench.validated(self.cut)
        self.unpruned = bench.validated(bench.original)

    def recipe(self, arm: str) -> tuple[Any, Recipe]:
        """What an arm starts from, and how it goes on."""
        data, nothing = self.bench.dataset, Recipe({}, ())
        known, classes = trained_on(self.bench.original, data), len(data.names)
        same = Start(len(data.images("train")), 16, self.args.epochs, trained_with=known, classes=classes)
        start = replace(same, kept=self.recovered.primary / self.unpruned.primary)
        if arm == "recipe":
            return self.cut, make_recipe(self.cut.model, start, self.taught)
        if arm == "recipe/no teacher":
            return self.cut, make_recipe(self.cut.model, start)
        if arm == "defaults":
            return self.cut, nothing
        if arm.startswith("unpruned"):
            return self.bench.original, nothing if "defaults" in arm else make_recipe(
                self.bench.original.model, same, Teacher(self.teacher)
            )
        stock = smaller(sum(p.numel() for p in self.cut.model.parameters()), len(self.bench.dataset.names), self.folder)
        return (stock.load(str(self.teacher)) if "loaded" in arm else stock), nothing

    def run(self, arm: str, seed: int) -> tuple[Measured, Measured]:
        """An arm's last epoch and its best one."""
        model, recipe = self.recipe(arm)
        given = {"data": self.bench.dataset.source, "epochs": self.args.epochs, "imgsz": self.bench.imgsz, "seed": seed}
        settings = {**recipe.arguments, **given, "plots": False, "workers": 0, "device": "cpu"}
        folder = self.folder / f"{arm.replace('/', '-').replace(' ', '-')}-{seed}"
        scratch, callbacks = folder.with_name(f"{folder.name}-scratch"), Callbacks().with_others(recipe.callbacks)
        best = train_model(model, folder, settings, callbacks, dataset=self.bench.dataset, scratch=scratch).model
        return self.bench.validated(load_model(folder / "weights" / "last.pt")), self.bench.validated(best)


def smaller(parameters: int, classes: int, folder: Path) -> Any:
    """A stock YOLOv8n-seg of about so many parameters, by a smaller width multiple, untrained."""
    keys = yaml_model_load("yolov8n-seg.yaml")
    made = []
    for width in range(8, 33):  # in 128ths: 32 is YOLOv8n's own
        path = folder / f"smaller-{width}.yaml"
        keys |= {"nc": classes, "scales": {"n": [0.33, width / 128, 1024]}, "scale": "n"}
        path.write_text(yaml.safe_dump(keys), encoding="utf-8")
        made.append(YOLO(path, task="segment"))
    return min(made, key=lambda yolo: abs(sum(p.numel() for p in yolo.model.parameters()) - parameters))


def main() -> None:
    """Measure every arm with every seed."""
    parser = arguments(__doc__)
    parser.add_argument("--cut", default="params=0.83", help="a ratio, or a target")
    parser.add_argument("--criterion", default="reconstruction")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--arms", default=ARMS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        arms = Arms(Bench.of(args), args, Path(folder))
        print(f"unpruned {arms.unpruned.box:.4f} / {arms.unpruned.primary:.4f}")
        print(f"cut and recovered {arms.recovered.box:.4f} / {arms.recovered.primary:.4f}\n")
        print("| arm | seed | last epoch, box / mask | best epoch, box / mask |\n|---|---|---|---|", flush=True)
        last: dict[str, list[Measured]] = {}
        for arm in args.arms.split(","):
            for seed in range(args.seed, args.seed + args.seeds):
                final, best = arms.run(arm, seed)
                last.setdefault(arm, []).append(final)
                figures = " | ".join(f"{m.box:.4f} / {m.primary:.4f}" for m in (final, best))
                print(f"| {arm} | {seed} | {figures} |", flush=True)
        against = {"recovered": [arms.recovered] * args.seeds} | last
        print("\n| last epoch of | against | mask mAP50-95 | 95 % interval |\n|---|---|---|---|")
        for name, base in against.items():
            if name != "recipe" and "recipe" in last:
                low, high = paired_interval(last["recipe"], base)
                change = sum(m.primary for m in last["recipe"]) - sum(m.primary for m in base)
                print(f"| recipe | {name} | {change / args.seeds:+.4f} | {low:+.3f} … {high:+.3f} |")


if __name__ == "__main__":
    main()
