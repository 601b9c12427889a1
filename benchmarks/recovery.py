"""What brings a cut model back, without labels: methods × criteria × cuts, with the time they take.

    python benchmarks/recovery.py WEIGHTS DATA.yaml --cuts params=0.83,0.25 --criteria hsic_lasso,magnitude

Each row is printed as soon as it is measured; at the end come the differences that are worth claiming, with paired
bootstrap intervals over the validation images: each method against least squares, and each criterion against the first.
"""

from common import Bench, Row, arguments
from measure import paired_interval

from depgraph_hsic_only.report.pruning_report import repeats_text


def main() -> None:
    """Measure every method for every criterion at every cut."""
    parser = arguments(__doc__)
    parser.add_argument("--cuts", default="params=0.83,params=0.75,0.25", help="ratios, or targets")
    parser.add_argument("--criteria", default="hsic_lasso,magnitude")
    parser.add_argument("--methods", default="none,bn,least_squares")
    args = parser.parse_args()

    bench = Bench.of(args)
    unpruned = bench.validated(bench.original)
    print(f"unpruned: box {unpruned.box:.4f}, primary {unpruned.primary:.4f}\n")
    headings = ("cut", "criterion", "method", "parameters", "GMACs", "box", "primary", "primary, of unpruned", "s")
    print(f"| {' | '.join(headings)} | repeats |\n|{'---|' * len(headings)}---|", flush=True)
    found: dict[tuple[str, str, str], Row] = {}
    criteria, methods = args.criteria.split(","), args.methods.split(",")
    for cut in args.cuts.split(","):
        for criterion in criteria:
            # one criterion's widths for all: what is compared is which channels stay
            widths = bench.widths(cut, criteria[0])
            for method in methods:
                row = found[cut, criterion, method] = bench.row(widths, criterion, method)
                m = row.measured
                print(
                    f"| {cut} | {criterion} | {method} | {row.parameters:.3f} | {row.gmacs:.3f} | {m.box:.4f} | "
                    f"{m.primary:.4f} | {m.primary / unpruned.primary:.2f} | {row.seconds:.0f} | "
                    f"{repeats_text(bench.graph.full, widths)} |",
                    flush=True,
                )
    print(f"\nplanning: {', '.join(f'{name} {seconds:.0f} s' for name, seconds in bench.seconds.items())}")
    print("\n| cut | criterion, method | against | mask mAP50-95 | 95 % interval |\n|---|---|---|---|---|")
    for (cut, criterion, method), row in found.items():
        against = [(criterion, "least_squares")] if method != "least_squares" else [(criteria[0], method)]
        for other in against:
            base = found.get((cut, *other))
            if base is not None and base is not row:
                low, high = paired_interval([row.measured], [base.measured])
                change = row.measured.primary - base.measured.primary
                print(
                    f"| {cut} | {criterion}, {method} | {', '.join(other)} | {change:+.4f} | {low:+.3f} … {high:+.3f} |"
                )


if __name__ == "__main__":
    main()
