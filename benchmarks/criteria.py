"""Which channels? Criteria and settings of HSIC-Lasso at equal widths, by mAP after the same recovery.

    python benchmarks/criteria.py WEIGHTS DATA.yaml --cuts deep,0.25 --variants hsic_lasso,magnitude,random --seeds 2

Everything but the scores is the same for all: widths, calibration images (drawn from the training split by the seed),
recovery (least squares), and validation. Each row is printed as soon as it is measured; at the end every variant is
compared with the first one, with a paired bootstrap interval over the validation images.
"""

import itertools

from common import Bench, arguments
from measure import Measured, paired_interval


def main() -> None:
    """Measure every variant at every cut with every seed."""
    parser = arguments(__doc__, images=100)
    parser.add_argument("--cuts", default="deep,0.25,0.5", help="'deep', ratios of a uniform cut, or targets")
    parser.add_argument(
        "--variants", default="hsic_lasso,magnitude,bn_scale,taylor,random", help="criterion:option=value:…"
    )
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()

    variants, cuts = args.variants.split(","), args.cuts.split(",")
    found: dict[tuple[str, str], list[Measured]] = {}
    headings = ("cut", "seed", "criterion", "box mAP50-95", "mask mAP50-95", "recovery s")
    print(f"| {' | '.join(headings)} |\n|{'---|' * len(headings)}", flush=True)
    for seed in range(args.seed, args.seed + args.seeds):
        bench = Bench.of(args, seed=seed)
        for variant, cut in itertools.product(variants, cuts):
            row = bench.row(bench.widths(cut, variants[0]), variant)
            found.setdefault((cut, variant), []).append(row.measured)
            figures = f"{row.measured.box:.4f} | {row.measured.primary:.4f} | {row.seconds:.1f}"
            print(f"| {cut} | {seed} | {variant} | {figures} |", flush=True)
    compare(found, variants, cuts)


def compare(found: dict[tuple[str, str], list[Measured]], variants: list[str], cuts: list[str]) -> None:
    """Means over seeds, and each variant's difference from the first in mask mAP50-95, with its interval."""
    print("\n| cut | criterion | box / mask | first − this, mask | 95 % interval |\n|---|---|---|---|---|")
    for cut, variant in itertools.product(cuts, variants):
        first, rows = found[cut, variants[0]], found[cut, variant]
        box, primary = (sum(getattr(row, part) for row in rows) / len(rows) for part in ("box", "primary"))
        low, high = paired_interval(first, rows)
        base = sum(row.primary for row in first) / len(first)
        print(f"| {cut} | {variant} | {box:.3f} / {primary:.3f} | {base - primary:+.3f} | {low:+.3f} … {high:+.3f} |")


if __name__ == "__main__":
    main()
