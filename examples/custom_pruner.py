"""A workflow of your own: replace the stages that you want otherwise; measuring, report and export stay.

    python examples/custom_pruner.py                                       trains a moment on drawn shapes first
    python examples/custom_pruner.py --pretrained best.pt --data data.yaml --imgsz 640 --train-epochs 0 --epochs 20

Here the cut has two amounts, a gentle one for the backbone and a strong one for the prototypes, which cost most and
matter least; and the fine-tuning is Ultralytics' own with whatever arguments you write there.
"""

import argparse
import sys
from typing import Any

from depgraph_hsic_only import DefaultYoloPruner, PruningError, apply_plan, load_images, plan_pruning

AMOUNTS = {"backbone": 0.125, "prototypes": 0.5}


class TwoAmounts(DefaultYoloPruner):
    """Cuts the backbone a little and the prototypes a lot."""

    def prune(self, model: Any) -> Any:
        imgsz, count = self.config.imgsz, self.config.calibration["images"]
        images = load_images(self.dataset.images("train"), imgsz, limit=count)
        layers = {"backbone": "backbone", "prototypes": [len(model.model.model) - 1]}  # those of the head
        for part, ratio in AMOUNTS.items():
            plan = plan_pruning(model, ratio, layers=layers[part])
            report = apply_plan(model, plan, recovery="least_squares", images=images)
            self.note(f"{part}: {report.before.gmacs:.3f} -> {report.after.gmacs:.3f} GMACs; {report.recovery}")
        return model

    def fine_tune(self, model: Any) -> Any:
        epochs = self.config.fine_tune["epochs"]
        if epochs:
            data, folder = self.dataset.write_keys(self.folder.path), str(self.folder.path)
            common = {key: getattr(self.config, key) for key in ("imgsz", "batch", "device", "workers", "seed")}
            mild = {"optimizer": "AdamW", "lr0": 2e-4, "warmup_bias_lr": 0.0, "mosaic": 0.0, "plots": False}
            model.train(data=data, epochs=epochs, project=folder, name="finetune", **common, **mild)
        return model


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Prune with two stages of one's own.")
    parser.add_argument("--pretrained", default="yolo26n-seg.yaml", help="checkpoint (.pt), or a YAML to train from")
    parser.add_argument("--data", default="shapes", help="data.yaml, or 'shapes'")
    parser.add_argument("--imgsz", type=int, default=64, help="side of the input image, pixels")
    parser.add_argument("--train-epochs", type=int, default=1, help="before the cut; 0 for a checkpoint of this data")
    parser.add_argument("--epochs", type=int, default=1, help="after the cut")
    parser.add_argument("--project", default="runs/prune", help="folder of the run folders")
    args = parser.parse_args(argv)
    try:
        given = {"data": args.data, "imgsz": args.imgsz, "project": args.project, "workers": 2, "plots": False}
        epochs = {"train.epochs": args.train_epochs, "fine_tune.epochs": args.epochs, "calibration.images": 64}
        pruner = TwoAmounts(args.pretrained, **given, **epochs)
        pruner.add_callback("on_train_epoch_end", lambda trainer: print(f"epoch {trainer.epoch + 1} is over"))
        print(pruner.run())
    except PruningError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
