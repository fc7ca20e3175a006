import pandas as pd

from dms_spec import FusionClassifier

frame = pd.read_parquet("train.parquet")
classifier = FusionClassifier().fit(frame)  # each column of vectors is a modality
test = frame[frame["test"]]
print(classifier.score(test, test["labels"]), classifier.explain(test.tail(1)))
classifier.to_onnx("from-pandas")
