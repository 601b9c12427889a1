"""Where to cut: widths chosen by measured damage against a uniform ratio, at equal parameters and at equal GMACs.

    python benchmarks/allocation.py WEIGHTS DATA.yaml --ratios 0.15,0.25,0.4
    python benchmarks/allocation.py WEIGHTS DATA.yaml --layers all --random 10 --targets gmacs=0.6

All rows have the same channels to choose from (one criterion's scores), calibration images and recovery. The outside
reference is torch-pruning's own pruner as it is published for YOLOv8 (C2f split, group L2, the same ratio in every
layer), which has no recovery without training: as cut, and with BatchNorm re-estimated on the same images.

With --random the widths for each target are compared with so many random ones that meet it: what the search finds where
the damage of each width is multiplied by exp(x), x of a normal distribution of mean 0 and deviation 0.5.
"""

import copy
from dataclasses import replace
from typing import Any

import torch
import torch_pruning as tp
from common import Bench, arguments
from measure import Measured, paired_interval
from torch import nn

from depgraph_hsic_only import load_model
from depgraph_hsic_only.budget.allocation import allocate
from depgraph_hsic_only.budget.cost_model import CostModel
from depgraph_hsic_only.budget.search import Search
from depgraph_hsic_only.budget.sensitivity import Sensitivity
from depgraph_hsic_only.channels.amount import Amount
from depgraph_hsic_only.channels.limits import Limits
from depgraph_hsic_only.errors import UnsupportedModelError
from depgraph_hsic_only.recovery.recover import reestimate_batchnorm
from depgraph_hsic_only.utils.conversion import merge_c2f, split_c2f
from depgraph_hsic_only.yolo.architecture import stock_yaml
from depgraph_hsic_only.yolo.cost import measure_cost
from depgraph_hsic_only.yolo.load import install


def main() -> None:
    """Measure uniform and allocated widths at every ratio."""
    parser = arguments(__doc__)
    parser.add_argument("--ratios", default="0.15,0.25,0.4", help="of the uniform cuts")
    parser.add_argument("--criterion", default="hsic_lasso")
    parser.add_argument("--random", type=int, default=0, help="random widths beside those of each target")
    parser.add_argument("--targets", default="gmacs=0.6", help="with --random")
    args = parser.parse_args()

    bench = Bench.of(args)
    unpruned = bench.validated(bench.original)
    print(f"unpruned: box {unpruned.box:.4f}, primary {unpruned.primary:.4f}")
    if args.random:
        return compare_with_random(bench, args.targets.split(","), args.criterion, args.random, unpruned)
    print(f"sensitivity scan: {bench.damage(args.criterion).seconds:.0f} s\n")
    headings = ("ratio", "widths", "parameters", "GMACs", "box", "primary", "primary, of unpruned", "against uniform")
    print(f"| {' | '.join(headings)} |\n|{'---|' * len(headings)}", flush=True)
    for ratio in args.ratios.split(","):
        uniform = bench.widths(ratio, args.criterion)
        base: Measured | None = None
        for name, widths in {
            "uniform": uniform,
            "equal parameters": bench.widths(f"params={bench.share(uniform, 'params')}", args.criterion),
            "equal GMACs": bench.widths(f"gmacs={bench.share(uniform, 'gmacs')}", args.criterion),
        }.items():
            row = bench.row(widths, args.criterion)
            claim = "" if base is None else difference(row.measured, base)
            base = base or row.measured
            say(ratio, name, row.parameters, row.gmacs, row.measured, unpruned, claim)
        if args.layers == "backbone":
            for name, method in (("torch-pruning, as cut", "none"), ("torch-pruning, BatchNorm re-estimated", "bn")):
                model = reference(bench, float(ratio))
                if method == "bn":
                    reestimate_batchnorm(model.model, bench.images, 8)
                before, after = measure_cost(bench.original.model), measure_cost(model.model)
                shares = after.parameters / before.parameters, after.gmacs / before.gmacs
                try:
                    found = bench.validated(model)
                except UnsupportedModelError as error:  # it keeps no shared widths in step
                    print(
                        f"| {ratio} | {name} | {shares[0]:.3f} | {shares[1]:.3f} | no stock model: {error} |",
                        flush=True,
                    )
                    continue
                say(ratio, name, *shares, found, unpruned, difference(found, base) if base else "")


def compare_with_random(bench: Bench, targets: list[str], criterion: str, count: int, unpruned: Measured) -> None:
    """Measure the widths of every target, and random ones that meet it."""
    damage, generator = bench.damage(criterion), torch.Generator().manual_seed(bench.seed)
    headings = (
        "target",
        "widths",
        "damage alone",
        "parameters",
        "GMACs",
        "divergence",
        "box",
        "primary",
        "of unpruned",
    )
    print(f"| {' | '.join([*headings, 'against chosen'])} |\n|{'---|' * len(headings)}", flush=True)
    counted = CostModel(bench.original.model, bench.graph, bench.imgsz)
    for target in targets:
        base: Measured | None = None
        for number in range(count + 1):
            known = damage if number == 0 else perturbed(damage, generator)
            widths = allocate(bench.graph, known, counted, Amount.target(target), Limits()).widths
            sum_of = Search(bench.graph, damage, Limits(), None).damage(widths)
            row = bench.row(widths, criterion)
            claim = "" if base is None else difference(row.measured, base)
            base = base or row.measured
            name = "chosen" if number == 0 else f"random {number}"
            print(
                f"| {target} | {name} | {sum_of:.2f} | {row.parameters:.3f} | {row.gmacs:.3f} | {row.divergence:.3f} | "
                f"{row.measured.box:.4f} | {row.measured.primary:.4f} | "
                f"{row.measured.primary / unpruned.primary:.2f} | {claim} |",
                flush=True,
            )


def perturbed(damage: Sensitivity, generator: torch.Generator) -> Sensitivity:
    """The damage of every width, at all its sizes multiplied by a factor of its own."""
    factors = (torch.randn(len(damage.damage), generator=generator) / 2).exp().tolist()
    rows = zip(damage.damage.items(), factors, strict=True)
    return replace(damage, damage={name: {c: by * d for c, d in points.items()} for (name, points), by in rows})


def reference(bench: Bench, ratio: float) -> Any:
    """A `YOLO` that torch-pruning's own pruner has cut."""
    model = load_model(bench.weights)
    network: Any = copy.deepcopy(model.model)
    split: Any = split_c2f(network).float().requires_grad_(True)
    kept = [m for layer in split.model[10:] for m in layer.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    tp.pruner.BasePruner(
        _RawOutputs(split),
        torch.zeros(1, 3, 64, 64),
        importance=tp.importance.GroupMagnitudeImportance(),
        pruning_ratio=ratio,
        round_to=8,
        ignored_layers=kept,
    ).step()
    pruned: Any = merge_c2f(split)
    pruned.yaml = stock_yaml(pruned)
    install(model, pruned.eval())
    return model


class _RawOutputs(nn.Module):
    """The network through its head's raw outputs, which torch-pruning can trace."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        self.network.model[-1].training = True
        return [t for name, t in self.network(x).items() if name != "feats"]


def difference(found: Measured, base: Measured) -> str:
    """Mask mAP50-95 against another model's, with a paired interval."""
    low, high = paired_interval([found], [base])
    return f"{found.primary - base.primary:+.4f} ({low:+.3f} … {high:+.3f})"


def say(ratio: str, name: str, parameters: float, gmacs: float, m: Measured, unpruned: Measured, claim: str) -> None:
    """Print one row."""
    print(
        f"| {ratio} | {name} | {parameters:.3f} | {gmacs:.3f} | {m.box:.4f} | {m.primary:.4f} | "
        f"{m.primary / unpruned.primary:.2f} | {claim} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
