"""What several test files use: where things are, a tiny model and its data, ways to run and stop train.py."""

import base64
import contextlib
import hashlib
import json
import os
import re
import signal
import sys
from pathlib import Path
from unittest.mock import patch

import torch
from safetensors import safe_open

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # for the scripts in this folder, which are started without pytest

import lora  # noqa: E402
import minibert  # noqa: E402
import minirun  # noqa: E402
import squad  # noqa: E402
import train  # noqa: E402
from minibert.wordpiece import SPECIAL_TOKENS, wordpiece_tokenizer  # noqa: E402
from minihub import write_json  # noqa: E402

GOLDEN = Path(__file__).parent / "golden"
DATA = ROOT / "data"
INPUTS = ("input_ids", "token_type_ids", "attention_mask")
HEAD = "qa_outputs"
OFFLINE = {"HF_HUB_OFFLINE": "1", "PATH": ""}

CONTEXTS = {
    "Vin": "vin is a mistborn in the final empire. kelsier is the survivor of the pits.",
    "Paris": "paris is the capital of france. the seine is in paris, and so is the louvre.",
}
QUESTIONS = {
    "Vin": [("who is vin", "a mistborn"), ("who is kelsier", "the survivor"), ("who is paris", None)],
    "Paris": [("what is paris", "the capital"), ("where is the seine", "in paris"), ("who is vin", None)],
}


def letter_tokenizer(first=33, words=()):
    """An uncased WordPiece tokenizer: printable ASCII characters, alone and as continuations, and these words."""
    letters = [chr(c) for c in range(first, 127) if not chr(c).isupper()]
    return wordpiece_tokenizer([*SPECIAL_TOKENS, *letters, *(f"##{c}" for c in letters), *words])


def write_tiny(folder, tokenizer):
    """A folder with a tiny random checkpoint and its tokenizer, and a SQuAD file of 24 questions on two articles."""
    torch.manual_seed(3)
    config = minibert.BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=12, num_hidden_layers=2, num_attention_heads=3,
        intermediate_size=20, max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    minibert.save_pretrained(minibert.BertForQuestionAnswering(config), folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    articles = []
    for title, context in CONTEXTS.items():
        qas = []
        for i in range(12):
            question, text = QUESTIONS[title][i % 3]
            answers = [] if text is None else [{"text": text, "answer_start": context.index(text)}]
            qas.append({"id": f"{title}{i}", "question": question, "answers": answers, "is_impossible": text is None})
        articles.append({"title": title, "paragraphs": [{"context": context, "qas": qas}]})
    write_json(folder / "squad.json", {"version": "v2.0", "data": articles})


def flags(tiny, output, *more):
    """Flags that make train.py train the tiny model on its own data."""
    file = str(tiny / "squad.json")
    sizes = ("--max-length", "40", "--window-overlap", "8", "--max-question-tokens", "8", "--batch-size", "4")
    names = ("--model", str(tiny), "--train", file, "--dev", file, "--output", str(output))
    return [*names, *sizes, "--precision", "fp32", "--log-every", "5", *more]


def check_digests(page: str, policy: str) -> None:
    """The content security policy allows the page's own script and style, by their hash, and no other."""
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}[^>]*>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def on_tiny(tiny, *more):
    """Flags of an experiment that make every run one of the tiny model."""
    file = str(tiny / "squad.json")
    of_runs = flags(tiny, "unused")[8:-2]  # without the files, which the experiment makes, and --log-every, its own
    return [
        "--train",
        file,
        "--dev",
        file,
        "--questions",
        "10",
        "--held",
        "6",
        *more,
        "--",
        "--model",
        str(tiny),
        *of_runs,
    ]


def parse(arguments):
    """train.py's command line -> its Command."""
    return train.minirun.parse_command(arguments, train.Options, "train.py", "", train.SCORED)


def options_of(arguments):
    return parse(arguments).options.resolved()


def add_lora(model, rank, alpha, targets="query,value", dropout=0.0):
    """LoRA on query and value, with the QA head trained in full."""
    return lora.add_lora(model, rank, alpha, dropout, targets, HEAD)


def shake(model):
    """Move every lora_B away from zero, so that the updates do something."""
    with torch.no_grad():
        for _, layer in lora.lora_layers(model):
            layer.lora_B.normal_()


def example(question="who is vin", context="vin is a mistborn", answers=(), id="x", title="t"):
    """An Example with these gold answers, unanswerable without any."""
    return squad.Example(id, question, context, tuple(answers), not answers, title)


def predicted(answers, odds):
    """Predictions of these answers at these null odds, each sure of itself."""
    lists = {
        id: [{"text": text, "score": 0.0, "start": 0}, {"text": "", "score": odds[id], "start": None}]
        for id, text in answers.items()
    }
    return squad.Predictions(answers, odds, lists)


def read(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_log(folder, name="log.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def checkpoint_of(folder):
    """What the newest checkpoint of a run says of its progress."""
    with safe_open(max((folder / "checkpoint").glob("*.safetensors")), framework="pt") as file:
        return json.loads(json.loads(file.metadata()["checkpoint"])["state"])["progress"]


def everything(folder):
    """Name -> content of all files of a run but timing.jsonl, which differs from run to run; and not where it lies."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "timing.jsonl")
    contents = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return contents | {"config.json": read(folder / "config.json") | {"output": ""}}


@contextlib.contextmanager
def sigterm_at(number, script=train):
    """SIGTERM in the middle of this step, counted from here on; gives a list with an item for each step."""
    steps, original = [], script.training_step

    def step(*args):
        steps.append(1)
        if len(steps) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*args)

    with patch.object(script, "training_step", step):
        yield steps


def make_run(options, device="cpu", processes=None):
    """A train.Run as main() makes it, with the model in training mode."""
    alone = processes or train.minirun.Processes()
    run = train.prepare(options, None, False, alone, torch.device(device))
    run.model.train()
    return run


def gradients_of_step(run, window_ids, model=None):
    """The gradients that one training_step hands to the optimizer, and the loss and norm that it returns."""
    seen = {}
    optimizer = minirun.make_optimizer(run.model, 0.0)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    optimizer.register_step_pre_hook(
        lambda *_: seen.update({n: p.grad.clone() for n, p in run.model.named_parameters() if p.grad is not None})
    )
    loss, norm = train.training_step(run, model or run.model, window_ids, optimizer, scaler, 1e-3)
    return seen, (float(loss), float(norm))
