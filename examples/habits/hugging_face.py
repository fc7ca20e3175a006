from datasets import Dataset

from dms_spec import FusionClassifier

data = Dataset.from_parquet("train.parquet")
classifier = FusionClassifier().fit(data)
test = data.filter(lambda row: row["test"])
print(classifier.score(test, test["labels"]), classifier.explain(test.select([0])))
classifier.to_onnx("from-datasets")
classifier.save_pretrained("my-model")  # and push_to_hub("me/my-model") shares it
