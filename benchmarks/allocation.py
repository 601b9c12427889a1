"""Where to cut: widths chosen by measured damage against a uniform ratio, at equal parameters and at equal GMACs.

    python benchmarks/allocation.py WEIGHTS DATA.yaml --ratios 0.15,0.25,0.4

All rows have the same channels to choose from (one criterion's scores), calibration images and recovery. The outside
reference is torch-pruning's own pruner as it is published for YOLOv8 (C2f split, group L2, the same ratio in every
layer), which has no recovery without training: as cut, and with BatchNorm re-estimated on the same images.
"""

import copy
from typing import Any

import torch
import torch_pruning as tp
from common import Bench, arguments
from measure import Measured, paired_interval
from torch import nn

from depgraph_hsic_only import load_model
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
    args = parser.parse_args()

    bench = Bench.of(args)
    unpruned = bench.validated(bench.original)
    print(f"unpruned: box {unpruned.box:.4f}, primary {unpruned.primary:.4f}")
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


def reference(bench: Bench, ratio: float) -> Any:
    """A `YOLO` that torch-pruning's own pruner has cut."""
    model = load_model(bench.weights)
    split: Any = split_c2f(copy.deepcopy(model.model)).float().requires_grad_(True)
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
