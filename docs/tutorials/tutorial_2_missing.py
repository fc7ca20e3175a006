"""
Missing modalities, told and untold
===================================

A modality can go missing in two ways. Either the scheduler is told, or it gets numbers that mean
nothing. This page does both to the model of :doc:`tutorial_1_onnx`, and watches the weights.
"""

import matplotlib.pyplot as plt
import numpy as np

from dms_spec import FusionClassifier
from dms_spec.colours import BLUE, GREY, RED

classifier = FusionClassifier.load("models/digits")
table = np.load("train.npz")
rows = table["test"] & table["present.pixels"]  # scans that have pixels, to take them away
scans = {name: table[name][rows] for name in classifier.modalities_}
labels = table["labels"][rows]
print(len(labels), "scans")

# %%
# Told
# ----
#
# Give None, or a row of NaN, or a mask, and the modality is absent. Its weight is exactly 0, and
# the others share the rest. The result has a note if a modality is absent in all rows.

told = classifier.predictions(scans | {"pixels": None})
print(told["weights"][:3].round(3))
print(*told.notes, sep="\n")

# %%
# Untold
# ------
#
# A broken camera goes on sending numbers. It may send zeros, one grey everywhere, noise, or
# somebody else's picture. All of these are marked as present.

random = np.random.default_rng(0)
pixels = scans["pixels"]
broken = {
    "nothing wrong": pixels,
    "zeros": np.zeros_like(pixels),
    "one grey": np.full_like(pixels, 8),
    "noise": random.uniform(-16, 32, pixels.shape).astype(np.float32),
    "another scan": pixels[random.permutation(len(pixels))],
}
results = {name: classifier.predictions(scans | {"pixels": x}) for name, x in broken.items()}
results["told"] = told

# %%
# Two questions count: how much weight is left for the pixels, and how often the answer is right.

where = classifier.modalities_.index("pixels")
weights = [result["weights"][:, where] for result in results.values()]
right = [np.mean(result["predicted"] == labels) for result in results.values()]

figure, (left, other) = plt.subplots(1, 2, figsize=(8, 2.8), sharey=True)
figure.suptitle("The pixels are broken in every scan")
places = np.arange(len(results))
left.boxplot(
    weights,
    orientation="horizontal",
    positions=places,
    whis=(5, 95),
    showfliers=False,
    medianprops={"color": RED, "linewidth": 2},
)
left.axvline(1 / len(scans), color=GREY, linestyle=":")
left.set(yticks=places, yticklabels=results, xlabel="weight of the pixels", xlim=(-0.02, 0.6))
left.invert_yaxis()
other.barh(places, right, color=BLUE, height=0.5)
other.set(xlabel="share of right answers", xlim=(0, 1.12))
for place, share in zip(places, right, strict=True):
    other.text(share + 0.01, place, f"{share:.1%}", va="center")

# %%
# A box holds the middle half of the scans, and its whiskers nine scans in ten. The dotted line is
# an equal share.
#
# One grey and noise look like no scan that the model has learned from. Typicality finds that out,
# and the pixels lose nearly all of their weight. Zeros keep theirs, and another scan keeps a part.
# These two cost right answers. So say what is missing wherever you know it. :doc:`/guide/missing`
# says how.
