"""
From a table to an ONNX file
============================

You have embeddings of several modalities in a table. At the end of this page you have one ONNX file
that weighs and fuses them, and that runs without dms-spec.

The table
---------

The demonstration's table holds real scans of digits. Each scan is seen in four ways, which play the
modalities. In a terminal, the first line would be ``dms demo --table train.npz``.
"""

import matplotlib.pyplot as plt
import numpy as np

from dms_spec.cli import main as dms
from dms_spec.colours import BLUE

dms(["demo", "--table", "train.npz"])
table = np.load("train.npz")
for name, array in table.items():
    print(f"{name:20} {array.dtype!s:8} {array.shape}")

# %%
# This is what the modalities see of three scans. The second lacks one of them. Such gaps are NaN in
# the table.

views = ("pixels", "projections", "spectrum", "gradients")
whole = np.all([table[f"present.{view}"] for view in views], axis=0)
gap = int(np.flatnonzero(table["present.pixels"] & ~whole)[0])
rows = (np.flatnonzero(whole)[0], gap, np.flatnonzero(whole)[4])

figure, grid = plt.subplots(len(rows), len(views), figsize=(8, 3.6))
figure.suptitle("Three scans, and what each modality sees of them")
for line, row in zip(grid, rows, strict=True):
    for axes, view in zip(line, views, strict=True):
        axes.set(xticks=[], yticks=[])
        if not table[f"present.{view}"][row]:
            axes.text(0.5, 0.5, "missing", ha="center", va="center")
        elif view == "pixels":
            axes.imshow(table[view][row].reshape(8, 8), cmap="gray_r")
        else:
            axes.bar(range(table[view].shape[1]), table[view][row], color=BLUE)
for axes, view in zip(grid[0], views, strict=True):
    axes.set_title(view)

# %%
# The fit
# -------
#
# ``FusionClassifier`` learns a head for each modality, and how far to trust each. It leaves the
# rows in ``test`` alone. They come from writers that the fit has not seen.

from dms_spec import FusionClassifier

classifier = FusionClassifier().fit(table)
test = {name: array[table["test"]] for name, array in table.items()}
print(f"right in {classifier.score(test, test['labels']):.1%} of {len(test['labels'])} scans")

# %%
# Every row has weights of its own. A weight is exactly 0 where a modality is missing. The columns
# below are the first forty scans of the test. White is missing.

weights = classifier.weights(test)[:40].T
figure, axes = plt.subplots(figsize=(8, 1.9))
picture = axes.imshow(np.where(weights > 0, weights, np.nan), aspect="auto", cmap="viridis", vmin=0)
axes.set(yticks=range(len(views)), yticklabels=classifier.modalities_, xlabel="scan")
axes.set_title("Weights of the modalities, scan by scan")
figure.colorbar(picture, label="weight")

# %%
# ``explain`` says in words why a row has its weights:

print(classifier.explain({name: array[:1] for name, array in test.items()}))

# %%
# The file
# --------
#
# ``to_onnx`` writes the whole way from embeddings to probabilities into one graph. Before it keeps
# the file, it runs it and compares the results with those of the classifier.

classifier.save("models/digits", overwrite=True)
path = classifier.to_onnx("models/digits", overwrite=True)
print(path.as_posix())

# %%
# ONNX Runtime alone runs it. The mask ``present`` says what is missing, and whatever stands there
# instead is not read.

import onnxruntime

session = onnxruntime.InferenceSession(path)
mask = np.stack([test[f"present.{view}"] for view in views], axis=1)
inputs = {view: np.nan_to_num(test[view]) for view in views} | {"present": mask}
(probabilities,) = session.run(["probabilities"], inputs)
same = probabilities.argmax(axis=1) == classifier.predict(test)
print(f"the same digit in {same.sum()} of {len(same)} scans")

# %%
# :doc:`/guide/onnx` says more about the file, and :doc:`/guide/onnx_cpp` runs it in C++.
