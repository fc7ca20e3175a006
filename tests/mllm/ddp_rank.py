"""One rank of training a model with a scheduler under plain DDP; rank 1 sees no image in a row.

``python ddp_rank.py RANK FOLDER`` writes the gate and the parameters after two steps to
``FOLDER/RANK.npy``.
"""

from __future__ import annotations

import sys

import numpy as np
import tiny_models
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from dms_spec import SchedulerSpec
from dms_torch import Fusion
from dms_torch.adapters import attach


def main(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model, inputs = tiny_models.build("llava")
    # Its last layer's norm after the patches' has no part in what the language model sees.
    model.model.vision_tower.requires_grad_(requires_grad=False)
    spec = SchedulerSpec(
        modalities=("image", "text"), policy="static", signals={}, coefficients={}, fusion="feature"
    )
    gate = Fusion(spec, {"policy.bias": torch.zeros(2)})
    attach(model, gate)
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.01)
    for step in range(2):
        optimizer.zero_grad()
        logits = parallel(**inputs([True, rank == 0], step)).logits
        torch.nn.functional.cross_entropy(logits[:, -1], torch.tensor([5, 9])).backward()
        optimizer.step()
    everything = [gate.get_parameter("policy/bias"), *model.parameters()]
    flat = torch.cat([parameter.detach().flatten() for parameter in everything])
    np.save(f"{folder}/{rank}.npy", flat.numpy())
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
