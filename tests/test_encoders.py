"""Encoders of libraries, as tiny models: what comes out is what the library itself computes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("PIL")
pytest.importorskip("pyarrow")
pytest.importorskip("soundfile")
pytest.importorskip("tqdm")

import soundfile
import soxr
import tiny_encoders as tiny
import torch
import transformers
from PIL import Image

from dms_spec.encoding.encoder import Wish, load_encoder
from dms_spec.encoding.openers import opener
from dms_spec.errors import BackendUnavailable, FileError, SpecError
from dms_spec.files import read_arrays

Run = Callable[..., Any]
TEXTS = ["a cat sleeps", "dog", "a dog sings a cat"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model of each kind, and files to encode."""
    folder = tmp_path_factory.mktemp("encoders")
    tiny.save_vit(folder / "vit")
    tiny.save_bert(folder / "bert")
    tiny.save_clip(folder / "clip")
    tiny.save_wav2vec(folder / "wav2vec")
    tiny.write_files(folder / "files")
    return folder


def pictures(place: Path) -> list[Any]:
    return [Image.open(place / "files" / "dog" / f"{k}.png").convert("RGB") for k in (5, 7, 9)]


def loaded(place: Path, family: str, name: str, kind: str, **options: Any) -> Any:
    return load_encoder(Wish(name=f"{family}:{place / name}", kind=kind, **options))


def test_transformers_pools_as_it_says(place: Path) -> None:
    """The oracle is the library, called with one item at a time, so that nothing is padded."""
    bert = transformers.AutoModel.from_pretrained(place / "bert", add_pooling_layer=False).eval()
    words = transformers.AutoTokenizer.from_pretrained(place / "bert")
    with torch.inference_mode():
        hidden = [bert(**words(text, return_tensors="pt")).last_hidden_state[0] for text in TEXTS]
    mean, cls = np.stack([h.mean(0) for h in hidden]), np.stack([h[0] for h in hidden])
    for pooling, expected in ((None, mean), ("mean", mean), ("cls", cls)):
        encoder = loaded(place, "transformers", "bert", "text", pooling=pooling)
        assert encoder.about["pooling"] == (pooling or "mean")
        np.testing.assert_allclose(encoder.run(TEXTS), expected, atol=1e-6)
    assert encoder.cut([*TEXTS, "a " * 11]) == 1, "two marks and eleven words, of twelve"
    assert loaded(place, "transformers", "bert", "text").about == {
        **encoder.about,
        "pooling": "mean",
    }, "weights that are not in the file are in no hash"
    with pytest.raises(SpecError, match=r"lacks weights.*pooler"):
        loaded(place, "transformers", "bert", "text", pooling="pooler")
    half = loaded(place, "transformers", "bert", "text", precision="bfloat16")
    assert half.about["sha256"] != encoder.about["sha256"]
    np.testing.assert_allclose(half.run(TEXTS), mean, atol=0.05)


def test_images_sounds_and_the_features_of_two_towers(place: Path) -> None:
    images = pictures(place)
    vit = transformers.AutoModel.from_pretrained(place / "vit").eval()
    prepare = transformers.AutoImageProcessor.from_pretrained(place / "vit")
    with torch.inference_mode():
        output = vit(**prepare(images=images, return_tensors="pt"))
    encoder = loaded(place, "transformers", "vit", "image")
    assert encoder.about["pooling"] == "pooler"
    np.testing.assert_allclose(encoder.run(images), output.pooler_output, atol=1e-6)
    tiny.save_vit(place / "plain", pooler=False)
    assert loaded(place, "transformers", "plain", "image").about["pooling"] == "cls"

    clip = transformers.AutoModel.from_pretrained(place / "clip").eval()
    words = transformers.AutoTokenizer.from_pretrained(place / "clip")
    with torch.inference_mode():
        found = clip(
            **words(TEXTS, padding=True, return_tensors="pt"),
            **transformers.AutoImageProcessor.from_pretrained(place / "clip")(
                images=images, return_tensors="pt"
            ),
        )
    towers = (("text", TEXTS, found.text_embeds), ("image", images, found.image_embeds))
    for kind, items, own in towers:
        ours = loaded(place, "transformers", "clip", kind).run(items)
        unit = ours / np.linalg.norm(ours, axis=1, keepdims=True)
        np.testing.assert_allclose(unit, own, atol=1e-5)

    model = transformers.AutoModel.from_pretrained(place / "wav2vec").eval()
    samples, rate = soundfile.read(place / "files" / "dog" / "1.wav", dtype="float32")
    heard = torch.from_numpy(soxr.resample(samples, rate, 8000))[None]
    heard = (heard - heard.mean()) / torch.sqrt(heard.var(correction=0) + 1e-7)
    with torch.inference_mode():
        expected = model(heard).last_hidden_state.mean(1)
    sounds = [opener("audio")(place / "files" / "dog" / f"{k}.wav") for k in (1, 3)]
    ours = loaded(place, "transformers", "wav2vec", "audio").run(sounds)
    np.testing.assert_allclose(ours[:1], expected, atol=1e-5)


def test_an_encoder_without_its_decoder_and_a_pooler_with_places(place: Path) -> None:
    transformers.utils.logging.disable_progress_bar()
    sizes = {"vocab_size": len(tiny.WORDS), "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1}
    t5 = transformers.T5EncoderModel(transformers.T5Config(**sizes, num_heads=2)).eval()
    t5.save_pretrained(place / "t5")
    tiny.save_tokenizer(place / "t5", model_input_names=["input_ids", "attention_mask"])
    words = transformers.AutoTokenizer.from_pretrained(place / "t5")
    with torch.inference_mode():
        hidden = [t5(**words(text, return_tensors="pt")).last_hidden_state[0] for text in TEXTS]
    ours = loaded(place, "transformers", "t5", "text").run(TEXTS)
    np.testing.assert_allclose(ours, np.stack([h.mean(0) for h in hidden]), atol=1e-6)

    config = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1])
    transformers.ResNetModel(config).save_pretrained(place / "resnet")
    size = {"height": 8, "width": 8}
    tiny.image_processor("ViTImageProcessor", size=size).save_pretrained(place / "resnet")
    assert loaded(place, "transformers", "resnet", "image").run(pictures(place)).shape == (3, 8)


def test_a_model_notices_embeddings_of_another_encoder(
    dms: Run, place: Path, tmp_path: Path
) -> None:
    def embed(name: str, *more: str) -> Path:
        given = ("--image", f"transformers:{place / 'vit'}", "--label", "folder", *more)
        dms("embed", place / "files", "-o", tmp_path / name, *given).succeeded()
        return tmp_path / name

    train, pooled = embed("train.npz"), ("--pooling", "image=cls")
    fit = ("--epochs", 2, "--passes", 0, "--spec", "static")
    dms("fit", train, "-o", tmp_path / "model", *fit).succeeded()
    kept = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    assert kept["model"]["encoders"]["image"]["pooling"] == "pooler"
    for name, more, noticed in (
        ("same.parquet", (), False),
        ("other.npz", pooled, True),
        ("other.parquet", pooled, True),
    ):
        embedded = embed(name, *more)
        outcome = dms("predict", tmp_path / "model", embedded, "-o", tmp_path / "out.npz")
        outcome.succeeded()
        assert ("come from another encoder" in outcome.err) == noticed, name
        explained = dms("explain", embedded, "--spec", tmp_path / "model")
        explained.succeeded()
        assert ("come from another encoder" in explained.err) == noticed, name
        if embedded.suffix == ".parquet":  # whoever scores in parts is told the same
            parts = dms(
                "predict", tmp_path / "model", embedded, "-o", f"{tmp_path / embedded.stem}/"
            )
            assert ("come from another encoder" in parts.err) == noticed, name
    assert "(pooling)" in outcome.err
    measured = ("--corruption", "zeroed:1", "--seeds", 1, "-o", tmp_path / "report")
    outcome = dms("robustness", tmp_path / "model", tmp_path / "other.parquet", *measured)
    outcome.succeeded()
    assert "come from another encoder" in outcome.err
    assert set(read_arrays(tmp_path / "out.npz")) >= {"predicted", "weights"}


def test_what_cannot_be_loaded_says_why(place: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"cannot be loaded.*transformers for text"):
        loaded(place, "transformers", "files", "text")
    with pytest.raises(SpecError, match=r"knows no pooling 'man'.*Did you mean 'mean'"):
        loaded(place, "transformers", "bert", "text", pooling="man")
    with pytest.raises(SpecError, match="takes no file"):
        loaded(place, "transformers", "bert", "file")


@pytest.mark.parametrize("family", ["timm", "sentence-transformers"])
def test_a_library_that_is_not_installed_is_named(
    family: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, family.replace("-", "_"), None)
    module = {"timm": "of_timm", "sentence-transformers": "of_sentences"}[family]
    monkeypatch.delitem(sys.modules, f"dms_spec.encoding.{module}", raising=False)
    with pytest.raises(BackendUnavailable, match=f"needs {family}.*pip install '{family}'"):
        loaded(place, family, "vit", "image")


def test_timm_gives_what_it_has_before_its_classifier(tmp_path: Path) -> None:
    try:
        import timm
    except Exception as error:  # a torchvision that does not fit torch raises a RuntimeError
        pytest.skip(f"timm cannot be imported: {error}")
    tiny.save_timm(tmp_path / "timm")
    encoder = loaded(tmp_path, "timm", "timm", "image")
    model = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    images = [Image.new("RGB", (12, 10), (k, 90, 200 - k)) for k in (0, 100, 200)]
    with torch.inference_mode():
        batch = torch.stack([prepare(image) for image in images])
        expected = model.forward_head(model.forward_features(batch), pre_logits=True)
    np.testing.assert_allclose(encoder.run(images), expected, atol=1e-6)


def test_sentence_transformers_pools_as_its_files_say(place: Path) -> None:
    sentences = pytest.importorskip("sentence_transformers")
    path = tiny.save_sentences(place / "sentences")
    encoder = loaded(path, "sentence-transformers", "", "text")
    expected = sentences.SentenceTransformer(str(path)).encode(TEXTS)
    np.testing.assert_allclose(encoder.run(TEXTS), expected, atol=1e-6)
    assert encoder.cut([*TEXTS, "a " * 11]) == 1
