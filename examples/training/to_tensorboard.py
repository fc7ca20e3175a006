"""Writes the log of ``dms fit --log`` as events of TensorBoard.

``python to_tensorboard.py fit.jsonl runs``. Each run has a folder of its own in ``runs``.
"""

import json
import sys
from pathlib import Path

from tensorboardX import SummaryWriter  # torch.utils.tensorboard has the same

log, folder = map(Path, sys.argv[1:])
writers = {}
for line in log.read_text(encoding="utf-8").splitlines():
    step = json.loads(line)
    run = step["run"].replace(":", "-")
    if run not in writers:
        writers[run] = SummaryWriter(str(folder / run))
    for name in ("validation_loss", "best_validation_loss"):
        writers[run].add_scalar(f"{step['stage']}/{name}", step[name], step["epoch"])
for writer in writers.values():
    writer.close()
