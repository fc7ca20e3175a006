import numpy as np
import torch

from dms_spec import FusionClassifier

table = {name: torch.from_numpy(array) for name, array in np.load("train.npz").items()}
classifier = FusionClassifier().fit(table)
test = {name: tensor[table["test"]] for name, tensor in table.items()}
right = torch.from_numpy(classifier.predict(test)) == test["labels"]
print(right.float().mean(), classifier.explain({name: x[:1] for name, x in test.items()}))
classifier.to_onnx("from-pytorch")
