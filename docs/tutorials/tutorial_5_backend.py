"""
Your own backend
================

A backend says where schedulers run: with which array library, and on which devices. The equations
are there already. This page writes a backend with a mistake in it, lets the conformance suite find
it, and fixes it.

The backend
-----------

The library here is NumPy, which plays yours. What a backend has to say fits on a screen: the
library's array-API namespace, what it claims, and how arrays get in and out. It may bring
primitives of its own. This one brings a softmax, written down as in a textbook."""

import array_api_compat.numpy as xp
import matplotlib.pyplot as plt
import numpy as np

from dms_spec import ArrayBackend, Capabilities, ModalityBatch, Namespace, SchedulerSpec
from dms_spec.colours import BLACK, BLUE, GREY, RED


def softmax(logits, axis=-1):
    e = xp.exp(logits)
    return e / xp.sum(e, axis=axis, keepdims=True)


class Mine(ArrayBackend):
    name = "mine"
    capabilities = Capabilities(dtypes=("float64", "float32"), devices=("cpu",))
    softmax = staticmethod(softmax)

    def namespace(self, device):
        return Namespace.of(xp, np.ndarray, guard=quiet, softmax=self.softmax)

    def from_numpy(self, array, device):
        return array

    def to_numpy(self, array):
        return array


def quiet():
    """Silences NumPy where the equations expect an overflow."""
    return np.errstate(over="ignore", invalid="ignore")


# %%
# It runs, and the numbers look fine:

spec = SchedulerSpec.preset("paper", ("image", "text")).replace(
    signals={"confidence": {}}, coefficients={"confidence": 1.0}, fusion="probability"
)
batch = ModalityBatch(logits=np.array([[[2.0, 0.5, 0.1], [0.3, 0.2, 0.1]]], dtype=np.float32))
print(Mine().scheduler(spec)(batch).weights)

# %%
# Ask the suite
# -------------
#
# In a terminal, ``dms check mine`` does this once the backend is installed. Here a few cases for
# each property are enough, in float32 and at the level ``core``. What fails is shown with its
# clause.

from dms_spec.conformance.registry import checks
from dms_spec.conformance.runner import plan, run


def checked(backend):
    """Runs the checks of the level core, with five cases for each property."""
    core = plan(backend, checks(levels=["core"]), dtypes=["float32"])
    return run(backend, core, registered=len(plan(backend)), examples=5)


first = checked(Mine())
for result in first.results:
    if result.status != "passed":
        print(result.check, result.status)
        print("   ", result.message.splitlines()[0].partition(" The clause:")[0])

# %%
# Look at the mistake
# -------------------
#
# The messages speak of large logits. So here is the softmax of two logits that are one apart, from
# tiny to huge. The right answer is a flat line.


def fixed(logits, axis=-1):
    e = xp.exp(logits - xp.max(logits, axis=axis, keepdims=True))
    return e / xp.sum(e, axis=axis, keepdims=True)


size = np.linspace(-160, 160, 641, dtype=np.float32)
logits = np.stack([size + 1, size], axis=1)
figure, axes = plt.subplots(figsize=(8, 2.6))
with quiet():
    axes.plot(size, fixed(logits)[:, 0], color=GREY, linewidth=6, alpha=0.4, label="right")
    axes.plot(size, softmax(logits)[:, 0], color=RED, label="textbook, in float32")
axes.set(title="Softmax of (x + 1, x)", xlabel="x", ylabel="share of the first", ylim=(0, 1.05))
axes.legend(loc="lower center", frameon=False)

# %%
# The red line ends on both sides. Towards the right the sum of the exponentials becomes infinite,
# and far to the left both are 0. There the quotient is NaN. Just before either end it is wrong and
# looks like a number, which is worse.
#
# Probabilities do not change when the same amount is subtracted from all logits. So subtract the
# largest first: that is the grey line.
#
# Ask again
# ---------


class Fixed(Mine):
    softmax = staticmethod(fixed)


second = checked(Fixed())
for report in (first, second):
    print(report.levels["core"])

# %%
# The suite also says how close the numbers are, in rounding errors of the dtype at the scale of the
# result. Eight are allowed. Each row is an output, and each dot the worst error that one check met.

found = {}
for result in second.results:
    for name, error in result.worst.items():
        if not name.startswith("terms."):
            found.setdefault(name, []).append(error)
figure, axes = plt.subplots(figsize=(8, 3.6))
for place, (_, errors) in enumerate(sorted(found.items())):
    axes.plot(errors, [place] * len(errors), "o", color=BLUE, alpha=0.5, markersize=5)
axes.axvline(8, color=BLACK, linestyle="--", linewidth=1)
axes.set(xlabel="worst error, in rounding errors of float32", xlim=(0, 8.5))
axes.set_yticks(range(len(found)), sorted(found))

# %%
# Everything is far to the left of the limit. A certificate takes more: all levels, every dtype
# that is claimed, and 100 cases for each property. ``dms check`` runs that, and writes a report
# and a badge. :doc:`/guide/backend` shows how a backend is installed and published.
