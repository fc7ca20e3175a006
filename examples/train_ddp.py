"""Trains encoders, heads and a scheduler in several processes, from Parquet that fits none of them.

``torchrun --standalone --nproc-per-node 2 examples/train_ddp.py lake/*.parquet -o trained``. The
columns of vectors are the modalities, and ``labels`` holds the class. Processes talk over NCCL
where there are GPUs, and over gloo elsewhere.

- Each process reads row groups of its own, one at a time, and mixes the rows of each. So write
  row groups that hold rows of every class.
- The gradient is the mean over all rows of a step, however they are spread. A process that has
  run out of rows takes part with an empty batch, until all have.

``trained/artifact`` is what any backend predicts with, from the encoders' embeddings.
``trained/encoders.pt`` holds the weights of the encoders.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from dms_spec import Columns, SchedulerSpec, Table, save_artifact
from dms_torch import FusionModel, unimodal_loss

WIDTH = 32  # of each embedding, and of the common space


def encoder(width: int) -> nn.Module:
    """Makes the encoder of one modality; put yours here."""
    return nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, WIDTH))


def model_of(widths: dict[str, int], classes: Sequence, device: str) -> FusionModel:
    """Builds the model for inputs of these widths."""
    spec = SchedulerSpec(
        modalities=tuple(widths),
        policy="monotone",
        signals={"confidence": {}},
        coefficients={"confidence": 1.0},
    )
    encoders = {name: encoder(width) for name, width in widths.items()}
    sizes = dict.fromkeys(widths, WIDTH)
    model = FusionModel(encoders, spec, widths=sizes, width=WIDTH, classes=len(classes))
    model.labels = list(classes)
    return model.to(device)


def groups_of(files: Sequence[str]) -> list[tuple[str, int]]:
    """Lists all row groups, from the files' footers."""
    return [(file, k) for file in files for k in range(pq.read_metadata(file).num_row_groups)]


def table_of(group: tuple[str, int], widths: dict[str, int] | None = None) -> Table:
    """Reads one row group. A modality that no row of it has is absent, if its width is known."""
    with pq.ParquetFile(group[0]) as file:
        return Table.from_frame(file.read_row_group(group[1]), Columns(), widths=widths)


def widths_of(files: Sequence[str]) -> dict[str, int]:
    """Finds the width of each modality, from the first row groups that have it."""
    lists = (pa.ListType, pa.LargeListType, pa.FixedSizeListType)
    names = [field.name for field in pq.read_schema(files[0]) if isinstance(field.type, lists)]
    widths: dict[str, int] = {}
    for group in groups_of(files):
        widths |= {name: x.shape[1] for name, x in table_of(group).embeddings.items()}
        if set(names) == set(widths):
            break
    return {name: widths[name] for name in names}


def classes_of(files: Sequence[str]) -> list:
    """Finds the classes, in order, from the one column that holds them."""
    found = [pq.read_table(file, columns=["labels"])["labels"].unique() for file in files]
    if any(labels.null_count for labels in found):
        raise SystemExit("some rows have no label: leave them out when you write the files")
    return np.unique(np.concatenate(found)).tolist()


def batches(
    files: Sequence[str],
    widths: dict[str, int],
    size: int,
    rank: int,
    world: int,
    seed: tuple[int, int],
) -> Iterator[Table]:
    """Gives the rows of one process in an epoch: its row groups in random order, each mixed.

    Over all processes, every row comes once.
    """
    groups = groups_of(files)
    order = np.random.default_rng(seed).permutation(len(groups))
    random = np.random.default_rng((*seed, rank))
    for number in order[rank::world]:
        table = table_of(groups[number], widths)
        mixed = random.permutation(len(table))
        for start in range(0, len(table), size):
            yield table.rows(mixed[start : start + size])


def loss_of(model: nn.Module, table: Table, classes: Sequence, device: str) -> tuple[Tensor, ...]:
    """Sums the loss of what was fused over rows, and that of the heads over what is active."""
    inputs = {n: torch.from_numpy(x).float().to(device) for n, x in table.embeddings.items()}
    labels = torch.from_numpy(np.searchsorted(classes, table.labels)).to(device)
    output = model(inputs, torch.from_numpy(table.present).to(device))
    heads = unimodal_loss(output.logits, labels, output.active) * output.active.sum()
    return cross_entropy(output.predictions, labels, reduction="sum"), heads


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    tables: Iterator[Table],
    empty: Table,
    classes: Sequence,
    device: str,
) -> tuple[int, float]:
    """Takes steps until no process has a row left; gives all their rows and the mean loss."""
    seen, total = 0, 0.0
    while True:
        table = next(tables, empty)
        counts = torch.tensor([len(table), table.present.sum()], device=device)
        dist.all_reduce(counts)
        if not counts[0]:
            return seen, total / max(seen, 1)
        sums = torch.stack(loss_of(model, table, classes, device))
        # DistributedDataParallel averages gradients over processes, whatever each has seen.
        loss = (sums / counts.clamp_min(1)).sum() * dist.get_world_size()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        fused = sums[0].detach()
        dist.all_reduce(fused)
        seen, total = seen + int(counts[0]), total + float(fused)


def train(files: Sequence[str], output: Path, epochs: int, batch: int, seed: int) -> None:
    """Trains in a process group that is there already, and lets the first process write."""
    rank, world = dist.get_rank(), dist.get_world_size()
    device = f"cuda:{os.environ['LOCAL_RANK']}" if torch.cuda.is_available() else "cpu"
    classes, widths = classes_of(files), widths_of(files)
    torch.manual_seed(seed)
    model = model_of(widths, classes, device)
    # Which encoders run depends on what is present, and may differ between processes.
    parallel = DistributedDataParallel(model, find_unused_parameters=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    empty = table_of(groups_of(files)[0], widths).rows(slice(0))
    for epoch in range(epochs):
        tables = batches(files, widths, max(1, batch // world), rank, world, (seed, epoch))
        seen, loss = train_epoch(parallel, optimizer, tables, empty, classes, device)
        if rank == 0:
            print(f"epoch {epoch}: {seen} rows, loss {loss:.4f}", flush=True)
    if rank == 0:
        output.mkdir()
        save_artifact(output / "artifact", model.artifact())
        torch.save(model.encoders.state_dict(), output / "encoders.pt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", metavar="FILE", help="Parquet, with row groups")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=256, help="rows of a step, over all processes")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.output.exists():
        parser.error(f"{args.output} exists already")
    dist.init_process_group()
    train(args.files, args.output, args.epochs, args.batch, args.seed)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
