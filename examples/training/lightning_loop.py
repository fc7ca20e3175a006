"""Trains a model with a scheduler inside in Lightning's loop: ``python lightning_loop.py``."""

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from dms_spec import SchedulerSpec
from dms_torch import FusionModel, fusion_loss, unimodal_loss

NAMES = ("left", "right")


class TwoViews(lightning.LightningModule):
    """Sees the two halves of a digit, of which one may be missing."""

    def __init__(self):
        super().__init__()
        encoders = {name: nn.Sequential(nn.Linear(32, 24), nn.ReLU()) for name in NAMES}
        spec = SchedulerSpec(
            modalities=NAMES,
            policy="monotone",
            signals={"confidence": {}},
            coefficients={"confidence": 1.0},
        )
        widths = dict.fromkeys(NAMES, 24)
        self.model = FusionModel(encoders, spec, widths=widths, width=24, classes=10)

    def forward(self, left, right, present):
        return self.model({"left": left, "right": right}, present)

    def training_step(self, batch, _):
        *inputs, labels = batch
        output = self(*inputs)
        losses = fusion_loss(output, output.predictions, labels, output.features)
        heads = unimodal_loss(output.logits, labels, output.active)
        self.log("loss", losses["total"])
        for name, weight in zip(NAMES, output.weights.mean(0), strict=True):
            self.log(f"weight of {name}", weight)
        return losses["total"] + heads

    def validation_step(self, batch, _):
        *inputs, labels = batch
        right = self(*inputs).predictions.argmax(1) == labels
        self.log("accuracy", right.float().mean(), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def scans(missing=0.2):
    """Gives both halves of each scan, a mask with gaps, and the labels."""
    digits = load_digits()
    images = torch.from_numpy(digits.images / 16).float()
    present = torch.rand(len(images), 2) > missing
    present[~present.any(1)] = True
    left, right = images[:, :, :4].flatten(1), images[:, :, 4:].flatten(1)
    return TensorDataset(left, right, present, torch.from_numpy(digits.target))


if __name__ == "__main__":
    torch.manual_seed(0)
    train, test = random_split(scans(), (0.8, 0.2))
    lightning.Trainer(max_epochs=10, log_every_n_steps=10).fit(
        TwoViews(), DataLoader(train, batch_size=64, shuffle=True), DataLoader(test, batch_size=64)
    )
