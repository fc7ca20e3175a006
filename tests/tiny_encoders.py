"""Tiny encoders: functions, and models built from configs, saved as people save theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

#: Of every tiny transformer.
SIZE = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "sings", "sleeps")


def colours(images):
    return np.array([np.asarray(image).mean(axis=(0, 1)) for image in images])


def letters(texts):
    return np.array([[text.count(letter) for letter in "aegs"] for text in texts], np.float32)


def loudness(sounds):
    return [[sound.samples.std(), sound.samples.max(), sound.rate / 1000] for sound in sounds]


def sizes(paths):
    return [[path.stat().st_size, len(path.name)] for path in paths]


def save_tokenizer(folder: Path, **options: Any) -> None:
    """A tokenizer of ten words, which knows no limit."""
    from transformers import BertTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    BertTokenizer.from_pretrained(folder, **options).save_pretrained(folder)


def image_processor(name: str, **options: object) -> Any:
    """One that needs no torchvision: it has a name of its own from transformers 5 on."""
    import transformers

    kind = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
    return kind(**options)


def save_bert(folder: Path) -> Path:
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(**SIZE, vocab_size=len(WORDS), max_position_embeddings=12)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_vit(folder: Path, *, pooler: bool = True) -> Path:
    import torch
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(1)
    config = ViTConfig(**SIZE, image_size=8, patch_size=4)
    ViTModel(config, add_pooling_layer=pooler).save_pretrained(folder)
    size = {"height": 8, "width": 8}
    image_processor("ViTImageProcessor", size=size).save_pretrained(folder)
    return folder


def save_clip(folder: Path) -> Path:
    import torch
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(2)
    words = {"vocab_size": len(WORDS), "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    text = {**SIZE, **words, "max_position_embeddings": 12}
    vision = {**SIZE, "image_size": 8, "patch_size": 4}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=6)
    CLIPModel(config).save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}}
    image_processor("CLIPImageProcessor", **sizes).save_pretrained(folder)
    save_tokenizer(folder, model_input_names=["input_ids", "attention_mask"])
    return folder


def save_wav2vec(folder: Path) -> Path:
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    torch.manual_seed(3)
    config = Wav2Vec2Config(
        **SIZE, conv_dim=(8, 8), conv_stride=(5, 4), conv_kernel=(10, 4),
        num_feat_extract_layers=2, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    Wav2Vec2Model(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=8000).save_pretrained(folder)
    return folder


def save_timm(folder: Path) -> Path:
    import timm
    import torch

    torch.manual_seed(4)
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=3, **sizes)
    timm.models.save_for_hf(model, folder, model_args=sizes, safe_serialization=True)
    return folder


def save_sentences(folder: Path) -> Path:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(save_bert(folder / "bert")))  # which adds a mean of words
    model.max_seq_length = 8
    model.save(str(folder / "model"))
    return folder / "model"


def write_files(folder: Path, rows: int = 12) -> Path:
    """A folder of images, words and sounds of two classes. Some are missing, some are broken."""
    import soundfile
    from PIL import Image

    random = np.random.default_rng(0)
    for row in range(rows):
        kind = ("cat", "dog")[row % 2]
        own = folder / kind
        own.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 128, (8, 8, 3)) + 127 * (row % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(own / f"{row}.png")
        (own / f"{row}.txt").write_text(f"a {kind} {('sleeps', 'sings')[row % 2]}")
        tone = np.sin(np.arange(400) * (0.1 + 0.3 * (row % 2)))
        soundfile.write(own / f"{row}.wav", tone + 0.1 * random.normal(size=400), 16000)
    (folder / "cat" / "0.png").unlink()
    (folder / "dog" / "1.png").write_bytes(b"no picture")
    (folder / "dog" / "3.png").write_bytes((folder / "dog" / "5.png").read_bytes()[:60])
    (folder / "cat" / "2.txt").write_text(" \n")
    (folder / "cat" / "4.wav").write_bytes(b"RIFF")
    return folder
