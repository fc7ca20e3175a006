"""The page: everything in README.md comes from the numbers beside it, and from the paper's."""

from __future__ import annotations

from pathlib import Path

import tables
from scenes import CORRUPTED, MISTAKEN
from tables import NOISY, TASKS, Lines, Numbers

NAMES = {"llava": "the tiny LLaVA", "blip2": "the tiny BLIP-2"}


def prose(text: str) -> str:
    """A paragraph in one line."""
    return " ".join(text.split())


def write_page(folder: Path) -> None:
    """Write README.md beside the numbers."""
    numbers = Numbers(folder)
    parts = [_intro(numbers), _held(numbers), _tables(numbers), _second(numbers), _limits()]
    text = "\n".join(line for part in parts for line in (*part, ""))
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    (folder / "README.md").write_text(text.rstrip() + "\n", encoding="utf-8")


def _intro(numbers: Numbers) -> Lines:
    about = numbers.about
    machine, versions = about["machine"], about["versions"]
    made = ", ".join(f"{name} {number}" for name, number in versions.items())
    seeds = ", ".join(f"{NAMES[b]} {numbers.seeds(b)}" for b in numbers.backbones)
    seconds = sum(about["CPU seconds"].values())
    strong = "; ".join(f"{name} {level:g}" for name, (_, level, _) in CORRUPTED.items())
    return [
        "# The DMS paper's experiments in miniature",
        "",
        prose(f"""
            Written by `make mini`. Every number is in `mini.csv`, versions and settings are in
            `environment.json`. {machine["cpu"]}, {machine["cores"]} cores; Python
            {about["python"]}, {made}. It took {seconds / 60:.0f} minutes of CPU time in all. Seeds:
            {seeds}. Means over seeds ± one standard error over seeds, in %.
        """),
        "",
        "![Accuracy against condition](mini.png)",
        "",
        "## What is measured",
        "",
        prose(f"""
            A scene is four scans of digits (scikit-learn's `load_digits`), two by two, one of them
            in a frame. The text beside it tells the same in words: a question with a hint, or a
            note for a caption. Whoever writes it takes a digit for another in
            {MISTAKEN:.0%} of the cases. So each modality alone is almost enough, and where one is
            corrupted the other can help. Scans are split into training, validation and test scans
            before any scene is made. Settings were chosen on scenes of validation scans.
        """),
        "",
        "- **VQA**: which digit is framed? The answer is one word.",
        "- **Captioning**: all four digits and the framed one, in a sentence.",
        prose("""
            - **Retrieval**: the caption of a scene and its note among the captions of all 500 test
            scenes, by the last hidden state.
        """),
        "",
        prose("""
            Two backbones are built from Hugging Face configurations and trained from scratch. First
            the vision encoder learns to keep the pixels; then it is frozen. Next all learns the
            tasks, on both modalities or on one of them. From there each method is trained for the
            same number of steps on clean scenes, with its scheduler attached. `robust`,
            `calibrate` and the oracle are attached to the static model. `calibrate` sees 1,000
            clean training scenes without labels. `robust` takes the typicality of `calibrate`, and
            learns two numbers, one for each modality, in the frozen model: from training scenes of
            which half are corrupted, in other ways than those of the test. The oracle knows what is
            corrupted, and hides it. DMS as published scales tokens. Its heads predict the framed
            digit from mean tokens, with ten passes of Monte-Carlo dropout, and its losses are those
            of the heads and of consistency.
        """),
        "",
        prose(f"""
            Corruptions are those of `dms robustness`, with their severities: {strong}. Every test
            scene is corrupted. *Image missing, untold* is a black image; *told* is none. *Image
            noise* is the mean of blur and occlusion, *text noise* that of typing errors and masked
            words.
        """),
        "",
        "![A test scene under each condition](scene.png)",
    ]


def _held(numbers: Numbers) -> Lines:
    rows, missed = [], []
    for backbone in numbers.backbones:
        below = tables.missed(numbers, backbone)
        missed += [[NAMES[backbone], *row] for row in below]
        columns = len(tables.tasks(numbers, backbone)) * len(NOISY)
        kept = numbers.kept(backbone, "robust", "image noise", "VQA")
        task, behind = tables.behind(numbers, backbone)
        closed = numbers.closed(backbone, "calibrate", "image noise", "VQA")
        rows.append(
            [
                NAMES[backbone],
                f"{columns - len(below)} of {columns} ({_met(not below)})",
                f"{kept} ({_met(kept.mean > 88.5)})",
                f"{behind:.1f} in {task} ({_met(behind <= 0.5)})",
                f"{closed:.0f} % ({_met(closed >= 50)})",
            ]
        )
    header = [
        "",
        "`robust` not below any baseline",
        "VQA retention of `robust` under image noise, above 88.5",
        "clean: behind the best, 0.5 at most",
        "`calibrate` closes of the gap in VQA, 50 % at least",
    ]
    lines = ["## What must hold", ""]
    lines.append(
        prose("""
            *Not below*: in a noisy column of a task, `robust` less each of static, co-attention,
            modality dropout and DMS as published, paired by seed, is no less than minus one
            standard error. *Clean*: the task in which it is farthest behind. *The gap* is that from
            static to the oracle under image noise.
        """)
    )
    lines += tables.table(header, rows)
    lines += tables.gaps_closed(numbers)
    if missed:
        lines += ["Where `robust` loses, with the rival to which it loses most:"]
        header = ["", "task", "condition", "`robust`", "rival", "paired difference"]
        lines += [*tables.table(header, missed), *_why()]
    return lines


def _why() -> Lines:
    return [
        prose("""
            - A text with typing errors or masked words still tells some of its words. Typicality
            sees that it is unusual, not what is left in it. The oracle hides it whole, and is below
            static in many of these columns as well.
        """),
        prose("""
            - The tiny BLIP-2 is missed for two reasons. Its tokens are normalised, so that a
            corrupted image is less far from clean ones; see the weights below. And a small weight
            is not 0: the oracle's weight of 0 stops what a small one does not. A look into one
            model, trained with earlier settings, on blurred validation scenes: in its second layer
            the best attention score of the image is above that of the text by 10 to 14 nats on
            average. A weight of 0.02 takes 3.2 nats off; accuracy was 41 %, with weight 0 it was
            92 %. In a tiny LLaVA a weight of 0.1 was enough for 91 %.
        """),
        prose("""
            - An image that is told to be missing has weight 0 for every method alike. What differs
            there is the backbone: modality dropout has trained on such prompts most.
        """),
    ]


def _met(held: bool) -> str:
    return "met" if held else "**missed**"


def _tables(numbers: Numbers) -> Lines:
    first = numbers.backbones[0]
    return [
        f"## The paper's tables, with {NAMES[first]}",
        "",
        prose("""
            The paper's own numbers, *in italics*, are those of arXiv 2506.12724: BLIP-2 on VQA v2,
            MSCOCO and Flickr30K. They are of other data and far larger models, and stand here for
            context. In its Table 1 it has CIDEr as well (static 110.4, co-attention 112.5, modality
            dropout 113.0, DMS 116.1) and METEOR (27.2, 27.6, 27.3, 28.0).
        """),
        "",
        "**Table 1: clean scenes.**",
        *tables.clean(numbers, first),
        "**Table 2: noise.** Degradation is 100 (noisy - clean) / clean, retention noisy / clean.",
        *tables.noisy(numbers, first),
        "Each condition by itself:",
        *(line for task in TASKS for line in tables.everywhere(numbers, first, task)),
        "**Table 3: without each signal.** The trained model stays; the weights change.",
        *tables.ablation(numbers, first),
        prose("""
            With two modalities alignment is the same number for both, so that it cannot change a
            weight. The row without it equals that of the whole. In the paper it is the signal that
            counts most.
        """),
        "",
        "**Where the weights go** (1 / 2 is neutral):",
        *tables.trusted(numbers, first),
    ]


def _second(numbers: Numbers) -> Lines:
    if len(numbers.backbones) < 2:
        return []
    second = numbers.backbones[1]
    return [
        f"## Table 4: a second backbone, {NAMES[second]}",
        "",
        prose("""
            It learns VQA alone. The paper's second backbone is LLaVA, judged by helpfulness (*3.6,
            with DMS 4.1*) and factuality (*72.4, with DMS 78.9*); here it is judged as the first.
        """),
        *tables.noisy(numbers, second),
        *tables.everywhere(numbers, second, "VQA"),
        *tables.trusted(numbers, second),
    ]


def _limits() -> Lines:
    return [
        "## What this does not say",
        "",
        prose("""
            - Ten digits and a few templates are not VQA v2. The differences say how a method
            behaves when a modality goes bad, not how large they are in a real model.
        """),
        prose("""
            - A text that goes bad here says less, and hardly misleads: static loses little under
            masked words, and there is little to gain.
        """),
        prose("""
            - Vision encoders that learn ten digits alone see a digit in every blur, and nothing
            reads typicality off their tokens. The encoders here keep the pixels, as those that are
            trained on images as such do.
        """),
        prose("""
            - CIDEr and METEOR are left out. METEOR in nltk needs WordNet, which is a download;
            the usual package for both, pycocoevalcap, runs METEOR in Java and was not to be had
            for this. BLEU-4 is sacrebleu's. Captions that are right in every word stand beside it.
        """),
    ]
