"""Mutate nine kinds of file that minibert reads and load them: they load to what works, or our error says why.

    python tests/fuzz.py --count 10000         1,000 seconds at most; prints what became of the mutations

A traceback of any other kind, ten seconds on one mutation, or a GiB more memory ends it with status 1; the line
printed then names the target and the seed, and --target NAME --seed N --count 1 does it again.
"""

import argparse
import dataclasses
import faulthandler
import json
import random
import resource
import struct
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from helpers import HEAD, letter_tokenizer, train

import lora
import minibert
import minibert.weights
import minihub
import minirun
import squad
from minirun.checkpoint import load_checkpoint, save_checkpoint
from minirun.command import saved_options
from minirun.hardware import peak_bytes
from squad.examples import WrongOffsetError

SECONDS, MEMORY = 10, 2**30
HOSTILE = [
    None, True, -1, 0, 1, 2**31, 2**63, 2**64, 10**9, -(10**30), 1e308, float("nan"), float("inf"),
    "", "a", "\0", "\ud800", "../..", "/", "(a+)+$", "a" * 5000, [], {}, [[]], [None], {"": None}, [1] * 1000,
]  # fmt: skip
BYTES = [
    b"",
    b"\0",
    b"\xff",
    b"{",
    b"]",
    b'"',
    b",",
    b"NaN",
    b"-1",
    b"1e999",
    b"9" * 5000,
    b"[" * 5000,
    b"\\ud800",
    b"null",
]
OURS = (squad.DataError, WrongOffsetError, minibert.CheckpointError, lora.AdapterError, ValueError)


# --------------------------------------------------------------------------------------------- mutations


def mutate_bytes(raw: bytes, rng: random.Random) -> bytes:
    at, end = sorted(rng.randrange(len(raw) + 1) for _ in range(2))
    end = min(end, at + 2 ** rng.randrange(12))
    kind = rng.randrange(5)
    if kind == 0 and at < len(raw):  # flip a bit
        return raw[:at] + bytes([raw[at] ^ 1 << rng.randrange(8)]) + raw[at + 1 :]
    if kind == 1:  # put something in the place of a piece
        return raw[:at] + rng.choice(BYTES) + raw[end:]
    if kind == 2:  # cut off the end
        return raw[:at]
    if kind == 3:  # twice the same piece
        return raw[:end] + raw[at:]
    return raw[:at] + rng.choice(BYTES) + raw[at:]


def mutate_json(raw: bytes, rng: random.Random) -> bytes:
    """Another value, one less, one more or another name at a random place of the tree."""
    content = json.loads(raw)
    places = []

    def walk(value):
        if isinstance(value, dict | list):
            for key in value if isinstance(value, dict) else range(len(value)):
                places.append((value, key))
                walk(value[key])

    walk(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        parent, key = rng.choice(places)
        kind = rng.randrange(4)
        if isinstance(parent, list):
            key = rng.randrange(len(parent)) if parent else None
        if key is None or (isinstance(parent, dict) and key not in parent):
            continue
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, dict):
            parent[rng.choice(["", "a", "../x", key + "x"])] = parent.pop(key)
        else:
            parent[key] = rng.choice([*HOSTILE, rng.choice(places)[0]])
    try:
        return json.dumps(content, ensure_ascii=rng.random() < 0.9).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):  # a value was put inside itself
        return b"{}"


def mutate_safetensors(raw: bytes, rng: random.Random) -> bytes:
    """The header as JSON, its length set right, or the numbers behind it."""
    size = struct.unpack("<Q", raw[:8])[0]
    header = mutate_json(raw[8 : 8 + size], rng)
    return struct.pack("<Q", len(header)) + header + raw[8 + size :]


# ----------------------------------------------------------------------------------------------- targets


class Workshop:
    """A folder of good files, each to be put back after its mutations."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.tokenizer = letter_tokenizer(first=97)
        torch.manual_seed(0)
        self.config = minibert.BertConfig(
            vocab_size=self.tokenizer.get_vocab_size(), hidden_size=6, num_hidden_layers=1, num_attention_heads=3,
            intermediate_size=8, max_position_embeddings=40,
        )  # fmt: skip
        minibert.save_pretrained(minibert.BertForQuestionAnswering(self.config), folder)
        self.tokenizer.save(str(folder / "tokenizer.json"))
        self.names = minibert.checkpoint_names(self.config)
        self.model, self.optimizer, self.scaler = self.trainee()
        lora.save_adapter(self.model, folder / "adapter", self.names, "QUESTION_ANS", str(folder))
        settings = {"null_threshold": 1.5, "temperature": 1.2, "max_length": 40, "window_overlap": 8}
        minihub.write_json(
            folder / "adapter" / "qa.json", settings | {"max_question_tokens": 8, "max_answer_tokens": 9}
        )
        minihub.write_json(folder / "options.json", dataclasses.asdict(train.Options()))
        save_checkpoint(folder / "checkpoint", self.model, self.optimizer, self.scaler, {"step": 7})
        qas = [{"id": "x", "question": "who is vin", "answers": [{"text": "vin", "answer_start": 0}]}]
        qas += [{"id": "y", "question": "who", "answers": [], "is_impossible": True}]
        paragraph = {"context": "vin is a mistborn, and so on", "qas": qas}
        minihub.write_json(folder / "squad.json", {"data": [{"title": "Vin", "paragraphs": [paragraph]}]})

    def trainee(self):
        model = minibert.load_pretrained(self.folder)
        lora.add_lora(model, 2, 4, head=HEAD)
        optimizer = minirun.make_optimizer(model, 0.0)
        return model, optimizer, torch.amp.GradScaler("cpu", enabled=False)

    def forward(self, model) -> None:
        ids = torch.ones(1, 5, dtype=torch.long)
        start, end = model(ids, ids.clamp(max=model.config.type_vocab_size - 1), ids)
        assert start.shape == end.shape == (1, 5)

    def load_model(self) -> None:
        self.forward(minibert.load_pretrained(self.folder))

    def load_tokenizer(self) -> None:
        tokenizer = minibert.load_tokenizer(self.folder)
        minihub.check_fit(tokenizer, self.config.vocab_size, self.config.longest_sequence, 40)
        squad.make_windows([squad.Example("x", "who", "vin is a mistborn", (), True, "t")], tokenizer, 40, 8, 8)

    def load_adapter(self) -> None:
        lora.base_of(self.folder / "adapter")
        model = minibert.load_pretrained(self.folder)
        lora.load_adapter(model, self.folder / "adapter", self.names, HEAD)
        lora.merge(model)
        self.forward(model)

    def load_settings(self) -> None:
        settings = squad.read_settings(self.folder / "adapter" / "qa.json")
        reader = squad.Reader(self.model, self.tokenizer, **settings)
        assert len(reader.tokenizer.get_vocab()) > 0

    def load_options(self) -> None:
        train.Options(**saved_options(self.folder / "options.json", train.Options))

    def load_checkpoint(self) -> None:
        progress = load_checkpoint(self.folder / "checkpoint", self.model, self.optimizer, self.scaler)
        assert progress == {"step": 7}, progress

    def load_data(self) -> None:
        examples = squad.read_examples(self.folder / "squad.json")
        windows = squad.make_windows(examples, self.tokenizer, 40, 8, 8)
        assert len(windows) >= len(examples)
        json.dumps([e.question for e in examples], ensure_ascii=False).encode()


def targets(shop: Workshop) -> dict[str, tuple[str, Callable, list[Callable]]]:
    """name -> the file to mutate, what loads it, how to mutate it."""
    text, tensors = [mutate_bytes, mutate_json, mutate_json], [mutate_bytes, mutate_safetensors, mutate_safetensors]
    return {
        "data": ("squad.json", shop.load_data, text),
        "config": ("config.json", shop.load_model, text),
        "weights": ("model.safetensors", shop.load_model, tensors),
        "tokenizer": ("tokenizer.json", shop.load_tokenizer, text),
        "adapter config": ("adapter/adapter_config.json", shop.load_adapter, text),
        "adapter": ("adapter/adapter_model.safetensors", shop.load_adapter, tensors),
        "settings": ("adapter/qa.json", shop.load_settings, text),
        "options": ("options.json", shop.load_options, text),
        "checkpoint": ("checkpoint/00000007.safetensors", shop.load_checkpoint, tensors),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="of the first mutation; the next ones count up")
    parser.add_argument("--target", help="only this kind of file")
    options = parser.parse_args()
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    minibert.weights.log.setLevel("ERROR")
    outcomes, failures = Counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        shop = Workshop(Path(folder))
        chosen = {k: v for k, v in targets(shop).items() if options.target in (None, k)}
        for _, load, _ in chosen.values():
            load()  # unharmed it works
        before = peak_bytes(resource.getrusage(resource.RUSAGE_SELF))
        for seed in range(options.seed, options.seed + options.count):
            name = list(chosen)[seed % len(chosen)]
            outcome = once(shop, seed, name, *chosen[name])
            outcomes[name, outcome] += 1
            failures += outcome == "FAILED"
        grown = peak_bytes(resource.getrusage(resource.RUSAGE_SELF)) - before
    for (name, outcome), number in sorted(outcomes.items()):
        print(f"{name:>15}  {outcome:8} {number:6,}")
    print(f"{options.count:,} mutations, {failures} failures, {grown / 2**20:,.0f} MiB more memory")
    return int(failures > 0 or grown > MEMORY)


def once(shop: Workshop, seed: int, name: str, file: str, load: Callable, mutations: list[Callable]) -> str:
    """One mutation of one file; the file is good again afterwards."""
    rng, path = random.Random(seed), shop.folder / file
    good = path.read_bytes()
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    try:
        path.write_bytes(rng.choice(mutations)(good, rng))
        load()
        return "loaded"
    except OURS as error:
        if type(error) in OURS and len(str(error)) > 10:
            return "refused"
        print(f"--target {name!r} --seed {seed}: {error!r}"[:500])
        return "FAILED"
    except BaseException as error:
        print(f"--target {name!r} --seed {seed}: {error!r}"[:500])
        return "FAILED"
    finally:
        faulthandler.cancel_dump_traceback_later()
        path.write_bytes(good)


if __name__ == "__main__":
    sys.exit(main())
