"""What each extra promises: commands that must succeed where it is installed, and nothing else."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from environments import Environment, Row, call, timed

from dms_spec.conformance import worked_example

NAMES = "--modalities image,text,audio"
PATTERNS = "--modality image=image_* --modality text=text_*"


@dataclass(frozen=True)
class Promise:
    """What somebody installs an extra for.

    Args:
        extras: The extras to install, separated by commas; empty for the core alone.
        does: What they are for, in a few words.
        commands: What must then succeed, in a folder with the files of `write_inputs`.
    """

    extras: str
    does: str
    commands: tuple[str, ...]

    def kept(self, environment: Environment, inputs: Path, *needs: object) -> Row:
        """Installs what it needs, runs its commands beside a copy of the inputs, and reports."""
        shutil.copytree(inputs, environment.work)
        run = [partial(environment.run, command) for command in self.commands]
        install = [partial(environment.install, *needs)] if needs else []
        return timed(self.extras or "(core)", self.does, [*install, *run])


MATCHING = """
import numpy as np
from dms_spec.equations.experimental.bixformer import assign
found = assign(np.array([[1.0, 2.0], [2.0, 1.0]]), np.array([0, 1]))
assert found.any.tolist() == [0, 1], found
"""

ESTIMATOR = """
import numpy as np
from dms_spec import FusionClassifier
from sklearn.model_selection import cross_val_score
arrays = np.load("table.npz")
classifier = FusionClassifier({"image": slice(0, 4), "text": slice(4, 8)}, epochs=2)
wide = np.hstack([arrays["image"], arrays["text"]])
assert cross_val_score(classifier, wide, arrays["labels"], cv=2).min() > 0.4
classifier.fit(arrays).save("digits")
"""

HUB = """
from dms_spec.hub import HubArtifact
from huggingface_hub import ModelCard
HubArtifact.from_pretrained("model").save_pretrained("shared")
assert ModelCard.load("shared/README.md").data.library_name == "dms-spec"
"""

TO_PARQUET = """
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
arrays = np.load("table.npz")
views = {name: arrays[name] for name in ("image", "text")}
vectors = {name: pa.array(view.tolist()) for name, view in views.items()}
pa.parquet.write_table(pa.table(vectors), "table.parquet")
single = {f"{name}_{k}": view[:, k] for name, view in views.items() for k in range(4)}
pa.csv.write_csv(pa.table(single), "table.csv")
"""

TORCH_EXPORT = """
import onnx
import torch
from dms_spec import SchedulerSpec
from dms_torch import Fusion
spec = SchedulerSpec(modalities=("a", "b"), signals={"confidence": {}},
                     coefficients={"confidence": 1.0})
rows = torch.export.Dim.DYNAMIC
present = torch.ones(4, 2, dtype=torch.bool)
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fusion = Fusion(spec)
    def forward(self, features, logits, present):
        output = self.fusion(features=features, logits=logits, present=present)
        return output.fused, output.weights
names = ["features", "logits", "present"]
torch.onnx.export(
    Net().eval(), (torch.randn(4, 2, 3), torch.randn(4, 2, 5), present), "torch.onnx",
    dynamo=True, input_names=names, dynamic_shapes={name: {0: rows} for name in names},
)
assert [item.name for item in onnx.load("torch.onnx").graph.input] == names
"""

MULTIMODAL = """
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig
from transformers import LlavaForConditionalGeneration
from dms_spec import SchedulerSpec
from dms_torch import Fusion
from dms_torch.adapters import attach
size = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4)
model = LlavaForConditionalGeneration(LlavaConfig(
    vision_config=CLIPVisionConfig(**size, image_size=8, patch_size=4),
    text_config=LlamaConfig(**size, vocab_size=64, pad_token_id=0),
    image_token_index=60, vision_feature_layer=-1,
)).eval()
ids = torch.tensor([[3, 60, 60, 60, 60, 4]])
spec = SchedulerSpec(modalities=("image", "text"), policy="static", signals={},
                     coefficients={}, fusion="feature")
with attach(model, Fusion(spec)) as dms:
    model.generate(input_ids=ids, attention_mask=torch.ones_like(ids),
                   pixel_values=torch.randn(1, 3, 8, 8), max_new_tokens=2)
assert dms.last.weights.tolist() == [[0.5, 0.5]]
"""

COMPLETION = "shtab --shell bash --prog dms dms_spec.cli.parser"

TO_EMBED = """
from pathlib import Path
import numpy as np
import soundfile
from PIL import Image
Path("raw").mkdir()
for k in range(6):
    Image.new("RGB", (8, 8), (40 * k, 0, 0)).save(f"raw/{k}.png")
    soundfile.write(f"raw/{k}.wav", np.sin(np.arange(400) / (k + 1)), 8000)
lines = ["import numpy as np", "from dms_spec.encoding.openers import resampled",
         "def colours(images): return np.array([np.asarray(i).mean((0, 1)) for i in images])",
         "def loudness(sounds): return [[resampled(s, 4000).std(), 1.0] for s in sounds]"]
Path("mine.py").write_text("\\n".join(lines))
"""

PROMISES = (
    Promise(
        "",
        "schedule, explain, predict, doctor",
        (
            "dms doctor",
            f"dms schedule example.npz -o out.npz {NAMES}",
            f"dms explain example.npz {NAMES}",
            "dms predict model table.npz -o predictions.npz",
        ),
    ),
    Promise(
        "conformance",
        "hold a backend to the specification",
        (
            "dms check numpy --examples 5",
            "pytest -q --pyargs dms_spec.conformance --dms-backend numpy -k offset",
        ),
    ),
    Promise(
        "torch",
        "learn, and schedule in PyTorch",
        (
            f"dms schedule example.npz -o out.npz {NAMES} --backend torch",
            "dms fit table.npz -o learned --epochs 2",
        ),
    ),
    Promise(
        "onnx",
        "export to ONNX and verify",
        (
            f"dms export onnx paper {NAMES} -o exported",
            "dms export onnx model -o fitted",
            "dms verify exported/onnx/model.onnx",
        ),
    ),
    Promise(
        "onnxruntime",
        "run an exported graph",
        (
            f"dms schedule example.npz -o out.npz {NAMES} --backend onnxruntime",
            f"dms export onnx paper {NAMES} -o exported",
            "dms verify exported/onnx/model.onnx",
        ),
    ),
    Promise(
        "onnxruntime-gpu",
        "the same with the other wheel, on the CPU here",
        (f"dms schedule example.npz -o out.npz {NAMES} --backend onnxruntime",),
    ),
    Promise(
        "numba",
        "schedule with compiled loops",
        (f"dms schedule example.npz -o out.npz {NAMES} --backend numba", "dms doctor"),
    ),
    Promise("plot", "draw an explanation", (f"dms explain example.npz {NAMES} --plot why.png",)),
    Promise(
        "tables",
        "predict from and to Parquet",
        (
            f"python -c '{TO_PARQUET}'",
            "dms predict model table.parquet -o out.parquet",
            f"dms predict model table.csv -o out.npz {PATTERNS}",
        ),
    ),
    Promise(
        "embed",
        "make embeddings with functions",
        (
            f"python -c '{TO_EMBED}'",
            "dms embed raw -o raw.npz --image mine:colours --audio mine:loudness",
        ),
    ),
    Promise("completion", "complete the command line", (COMPLETION,)),
    Promise(
        "sklearn",
        "learn and predict as scikit-learn does",
        (f"python -c '{ESTIMATOR}'", "dms predict digits table.npz -o out.npz"),
    ),
    Promise("hub", "write what the Hub reads", (f"python -c '{HUB}'",)),
    Promise("matching", "match sets", (f"python -c '{MATCHING}'",)),
    Promise(
        "robustness",
        "corrupt, measure, report",
        ("dms robustness model table.npz -o report --corruption gaussian:0.5 --seeds 1",),
    ),
    Promise("transformers", "weigh in a multimodal model", (f"python -c '{MULTIMODAL}'",)),
    Promise("demo", "the demonstration", ("dms demo -o demo-out",)),
    Promise("onnx,torch", "export a PyTorch model", (f"python -c '{TORCH_EXPORT}'",)),
    Promise("all", "everything but a runtime for ONNX", ("dms backends", "dms doctor")),
)


def write_inputs(folder: Path) -> None:
    """The files that the commands read: a batch, a table, and an artifact learned from it.

    The artifact is learned in the project's own environment, since what predicts with it, or
    measures it, needs no torch.
    """
    np.savez(folder / "example.npz", **worked_example.arrays())
    random = np.random.default_rng(0)
    labels = np.arange(120) % 3
    views = {name: random.normal(size=(120, 4)) + labels[:, None] for name in ("image", "text")}
    np.savez(folder / "table.npz", **views, labels=labels, test=np.arange(90, 120))
    learn = ["-m", "dms_spec", "fit", "table.npz", "-o", "model", "--epochs", "2"]
    call([sys.executable, *learn], folder)
