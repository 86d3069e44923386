"""python -m tests.fuzz [--minutes N | --count N] [--seed S] [--bundle DIR ...] [--kinds KIND ...] [--jobs N]

Mutates bundles, hashes and all, and tells how each ended. The exit code is 1 when any was neither refused nor harmless.
"""

import argparse
import sys
import time

from tests.fuzz.bases import EXACT, base
from tests.fuzz.campaign import Campaign, Tally, Trial
from tests.fuzz.mutate import KINDS


def main() -> int:
    """Run a campaign with the options of the command line."""
    options = _options()
    faults: dict[str, list[Trial]] = {}
    tallies = {kind: Tally() for kind in options.kinds}
    count = options.count or (sys.maxsize if options.minutes else 1000)
    for name in options.bundle:
        base(name)  # built once, where it is missing
    start = time.monotonic()
    campaign = Campaign(options.bundle, options.kinds, options.seed)
    for trial in campaign.run(count, (options.minutes or 1e6) * 60, options.jobs):
        tallies[trial.kind].add(trial.outcome)
        if options.verbose or count == 1:
            print(f"{trial.outcome.kind}: {trial.seed} {trial.done}: {trial.outcome.detail}")
        if trial.outcome.kind == "wrong":
            faults.setdefault(trial.outcome.fault, []).append(trial)
            if len(faults[trial.outcome.fault]) == 1:
                _print_fault(trial)
    _print_table(tallies, time.monotonic() - start)
    _print_summary(faults)
    return 1 if faults else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, help="how long")
    parser.add_argument("--count", type=int, help="how many mutations (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the first mutation; the others follow")
    parser.add_argument("--bundle", nargs="+", default=list(EXACT), help="flat, ivf or bundle folders")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--jobs", type=int, default=1, help="how many at once (default: 1)")
    parser.add_argument("--verbose", action="store_true", help="print every trial")
    return parser.parse_args()


def _print_fault(trial: Trial) -> None:
    print(f"WRONG {trial.outcome.detail} [{trial.outcome.place}]\n  {trial.done}\n  {trial.replay}", flush=True)


def _print_table(tallies: dict[str, Tally], seconds: float) -> None:
    print(f"\n{'kind':<12}{'mutated':>9}{'refused':>9}{'harmless':>9}{'wrong':>9}{'peak MB':>9}{'slowest s':>11}")
    for kind, tally in tallies.items():
        ends = "".join(f"{item:>9,}" for item in (sum(tally.ends.values()), *tally.ends.values()))
        print(f"{kind:<12}{ends}{tally.memory_mb:>9.0f}{tally.slowest_s:>11.2f}")
    total = sum(sum(tally.ends.values()) for tally in tallies.values())
    print(f"{total:,} mutations in {seconds:.1f} s, {total / seconds:.1f} a second")


def _print_summary(faults: dict[str, list[Trial]]) -> None:
    for fault, trials in sorted(faults.items(), key=lambda item: -len(item[1])):
        print(f"\n{len(trials)} x {fault}\n  {trials[0].done[:200]}\n  {trials[0].replay}")


if __name__ == "__main__":
    sys.exit(main())
