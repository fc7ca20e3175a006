"""What ``dms fit`` reaches on tables of your own, beside uniform weights and each modality alone.

``python benchmarks/fit_tables.py TABLE.npz ... [--seeds 5] [--policy P]``. Each seed splits 80/20
by ``RandomState(seed).permutation``, or as the table says; defaults of ``dms fit`` otherwise.
Accuracy in %, on rows that nothing was learned from or stopped by.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

from dms_spec.plugins import get_backend
from dms_spec.predictor import evaluate
from dms_spec.spec import SchedulerSpec
from dms_spec.tables import Table, read_table
from dms_torch.settings import FitSettings
from dms_torch.training import fit


def split(table: Table, seed: int) -> Table:
    """The table with its own split, or with a random one."""
    if table.test is not None:
        return table
    order = np.random.RandomState(seed).permutation(len(table))
    cut = int(0.8 * len(table))
    return replace(table, train=np.sort(order[:cut]), test=np.sort(order[cut:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--policy", default="monotone")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    for path in args.tables:
        whole = read_table(path, None, need_labels=True)
        spec = SchedulerSpec.preset("robust", whole.modalities).replace(policy=args.policy)
        rows, start = [], time.perf_counter()
        for seed in range(args.seeds):
            table = split(whole, seed)
            result = fit(table, spec, FitSettings(seed=seed))
            measured = evaluate(result.artifact, get_backend("numpy"), table.rows(table.test))
            rows.append((measured, result.artifact.model))
        seconds = (time.perf_counter() - start) / args.seeds

        def mean(key: str, what: str, rows: list = rows) -> float:
            return float(np.mean([measured[key][what] for measured, _ in rows]))

        alone = ", ".join(
            f"{name} {100 * np.mean([m['modalities'][name]['accuracy'] for m, _ in rows]):.1f}"
            for name in whole.modalities
        )
        print(
            f"{path.stem}: fused {100 * mean('fused', 'accuracy'):.1f} (ECE "
            f"{mean('fused', 'ece'):.3f}), uniform {100 * mean('static', 'accuracy'):.1f} (ECE "
            f"{mean('static', 'ece'):.3f}); alone: {alone}; {seconds:.1f} s a fit"
        )
        for name in whole.modalities:
            before, after = (
                np.mean([model["calibration"][name][key] for _, model in rows])
                for key in ("ece_before", "ece_after")
            )
            print(f"  {name}: ECE on held-out rows {before:.3f} -> {after:.3f}")


if __name__ == "__main__":
    main()
