"""What a cut costs on one's own images: trained, cut, recovered and trained on, beside controls at equal epochs.

    python benchmarks/own_data.py WEIGHTS DATA.yaml --folder runs/own --train 15 --epochs 15 --costs 0.7,0.5

The checkpoint is trained on the data once. From there, for each seed: every cost is met by width alone and by all
axes; beside it stand the unpruned model trained on for as many epochs (the control), the unpruned model at the image
size of about equal cost trained on alike, and with --defaults the cut model trained by Ultralytics' own arguments. With
--before, so many of the epochs of a cut model are those of the unpruned one. A cost such as latency=0.5 is of
onnxruntime on one thread; there precision is among all axes, a result in int8 is worth what its file is, and no smaller
image stands beside it.
Every model is the better of what went into its training and the best epoch, on both sides. Each is a run folder:
called again, what is finished is read and what was cut off goes on. Intervals are paired bootstrap ones over the
validation images, of the mean over seeds.
"""

import argparse
import json
import statistics
import warnings
from pathlib import Path
from typing import Any

from measure import Measured, measure, paired_interval

from depgraph_hsic_only import DefaultYoloPruner, RunReport, load_model
from depgraph_hsic_only.data.dataset import find_dataset
from depgraph_hsic_only.evaluation.bootstrap import DRAWS
from depgraph_hsic_only.evaluation.validation import Validation, validate_file
from depgraph_hsic_only.report.stages import EXPORTED, FINE_TUNED, PRUNED, TRAINED
from depgraph_hsic_only.training.callbacks import Callbacks
from depgraph_hsic_only.training.train import train_model
from depgraph_hsic_only.workflow.record.rivals import sizes_of_equal_cost
from depgraph_hsic_only.workflow.stages.exported import file_shape
from depgraph_hsic_only.workflow.state import read_state
from depgraph_hsic_only.yolo.cost import measure_cost
from depgraph_hsic_only.yolo.tasks import task_of

CONTROL = "unpruned"
ALL = {"gmacs": "width,depth,imgsz", "latency": "width,depth,imgsz,precision"}
HEADINGS = (
    "model",
    "seed",
    "px",
    "parameters",
    "GMACs",
    "as cut",
    "recovered",
    "trained on",
    "s cutting",
    "s training",
)


class OwnData:
    """The models of one data set and checkpoint, each made once, and their table."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.folder = args, Path(args.folder).resolve()
        self.dataset = find_dataset(args.data, load_model(args.weights).task)
        self.data = self.dataset.source or args.data  # where shapes were drawn
        self.found: dict[str, list[Measured]] = {}

    def run(self, name: str, pretrained: str | Path, seed: int, **settings: Any) -> tuple[Path, RunReport]:
        """A finished run of the workflow: its result and its report."""
        folder, args = self.folder / name, self.args
        if not folder.is_dir() or EXPORTED not in read_state(folder).done:
            common = {"data": args.data, "imgsz": args.imgsz, "workers": 0, "device": args.device, "rivals": None}
            place = {"project": str(self.folder), "name": name, "seed": seed}
            pruner = DefaultYoloPruner(pretrained, cfg=None, **{**common, **place, **settings})
            pruner.run(resume=folder if folder.is_dir() else None)
        return folder / "weights" / "best.pt", RunReport.load(folder)

    def trained_on(self, name: str, weights: str | Path, seed: int, epochs: int, imgsz: int) -> tuple[Path, float]:
        """An uncut model trained on for some epochs, and the seconds that took."""
        given = {"prune.ratio": 0, "train.epochs": epochs, "fine_tune.epochs": 0, "imgsz": imgsz}
        best, report = self.run(name, weights, seed, **given)
        return best, next((stage.seconds for stage in report.stages if stage.name == TRAINED.name), 0.0)

    def by_default(self, cut: Path, name: str, seed: int, imgsz: int) -> Path:
        """The best epoch of a cut model's training by Ultralytics' own arguments."""
        folder = self.folder / name
        if not (result := folder / "result.pt").is_file():
            left = self.args.epochs - self.args.before
            given = {"data": self.data, "epochs": left, "imgsz": imgsz, "seed": seed, "workers": 0}
            given |= {"plots": False, "device": self.args.device}
            kept: Any = {"dataset": self.dataset, "scratch": folder / "scratch"}
            train_model(load_model(cut), folder / "train", given, Callbacks(), **kept).model.save(result)
        return result

    def measured(self, weights: Path, imgsz: int) -> Measured:
        """A checkpoint, or the file in int8 beside it, on the validation images, of a side in pixels."""
        known, int8 = weights.with_name(f"{weights.stem}-{imgsz}.json"), weights.with_name(f"{weights.stem}_int8.onnx")
        if not known.is_file():
            found = measure(load_model(weights), self.data, Validation(imgsz, 16))
            if int8.is_file():
                of_file = validate_file(int8, self.data, file_shape(int8), self.dataset.task, draws=DRAWS)
                found = Measured(of_file["box"].map50_95, of_file.primary.map50_95, of_file.resampled)
            known.write_text(json.dumps([found.box, found.primary, found.samples]), encoding="utf-8")
        box, primary, samples = json.loads(known.read_text(encoding="utf-8"))
        return Measured(box, primary, tuple(samples))

    def add(self, name: str, seed: int, weights: Path, imgsz: int, before: list[str], seconds: list[float]) -> None:
        """A row of the table: a result, its mAP as cut and recovered, and the time of its cut and its training."""
        result, cost = self.measured(weights, imgsz), measure_cost(load_model(weights).model, imgsz)
        self.found.setdefault(name, []).append(result)
        cells = [name, str(seed), str(imgsz), f"{cost.parameters:,}", f"{cost.gmacs:.3f}", *before]
        print(f"| {' | '.join([*cells, f'{result.primary:.4f}', *(f'{s:.0f}' for s in seconds)])} |", flush=True)

    def against(self, name: str, other: str) -> None:
        """The difference of two rows, and its interval."""
        mean = {key: statistics.mean(m.primary for m in self.found[key]) for key in (name, other)}
        low, high = paired_interval(self.found[name], self.found[other])
        print(f"| {name} | {other} | {mean[name] - mean[other]:+.4f} | {low:+.3f} … {high:+.3f} |")


def main() -> None:
    """Make and measure all of it."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("data")
    parser.add_argument("--folder", required=True, help="of all runs")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--train", type=int, default=15, help="epochs before everything; 0: the checkpoint is trained")
    parser.add_argument("--epochs", default=15, type=int, help="of every training after that; 0: none")
    parser.add_argument("--before", default=0, type=int, help="so many of them come before the cut")
    parser.add_argument("--costs", default="0.7,0.5", help="shares of the multiply-adds, or latency=0.5")
    parser.add_argument("--axes", default="width,all", help="width, all, or both: each cost is met by each")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--defaults", action="store_true", help="the cut models trained by Ultralytics' defaults too")
    args = parser.parse_args()

    own = OwnData(args)
    trained, _ = own.trained_on("trained", args.weights, 0, args.train, args.imgsz)
    model = load_model(trained)
    full, kind = measure_cost(model.model, args.imgsz).gmacs, task_of(model.model).primary
    print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}", flush=True)

    def uncut(name: str, seed: int, imgsz: int) -> None:
        if len(own.found.get(name, ())) > seed:  # the size of another cost too
            return
        best, seconds = own.trained_on(f"{imgsz}px-{seed}", trained, seed, args.epochs, imgsz)
        own.add(name, seed, best, imgsz, ["", f"{own.measured(trained, imgsz).primary:.4f}"], [0, seconds])

    pairs: dict[str, list[str]] = {}  # of the table at the end
    for seed in range(args.seeds):
        uncut(CONTROL, seed, args.imgsz)
        for cost in args.costs.split(","):
            metric, _, share = cost.rpartition("=")
            rivals = [CONTROL]
            if (metric := metric or "gmacs") == "gmacs":
                side = sizes_of_equal_cost(model.model, float(share) * full, args.imgsz)[-1]
                rivals.append(f"{CONTROL} at {side} px")
                uncut(rivals[-1], seed, side)
            for axes in args.axes.split(","):
                given = {"prune.target": f"{metric}={share}", "prune.axes": ALL[metric] if axes == "all" else axes}
                given |= {"train.epochs": args.before, "fine_tune.epochs": args.epochs - args.before}
                given["prune.layers"] = "all"
                given |= {"latency.threads": 1} if metric == "latency" else {}
                name = f"{cost} by {axes}"
                place = f"{cost}-{axes}-{seed}" + (f"-{args.before}" if args.before else "")
                best, report = own.run(place, trained, seed, **given)
                stages = {stage.name: stage for stage in report.stages}
                cut = stages[PRUNED.name]
                trainings = [stages[it.name].seconds for it in (TRAINED, FINE_TUNED) if it.name in stages]
                imgsz, as_cut = cut.imgsz or args.imgsz, cut.details.get("as_cut", {}).get(f"map50_95_{kind}")
                before = ["" if as_cut is None else f"{as_cut:.4f}", f"{cut.metrics[kind].map50_95:.4f}"]
                own.add(name, seed, best, imgsz, before, [cut.seconds, sum(trainings)])
                pairs[name] = [*rivals, *[f"{cost} by width"] * (axes == "all" and "width" in args.axes)]
                if args.defaults:
                    weights = own.by_default(best.with_name(PRUNED.weights), f"{place}-defaults", seed, imgsz)
                    own.add(f"{name}, defaults", seed, weights, imgsz, before, [cut.seconds])
                    pairs[name].append(f"{name}, defaults")
    print("\n| model | against | mAP50-95 | 95 % interval |\n|---|---|---|---|")
    for name, others in pairs.items():
        for other in others:
            own.against(name, other)


if __name__ == "__main__":
    main()
