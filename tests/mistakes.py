"""What can be wrong with files and options: a row of docs/errors.md -> what makes it so. Used by test_errors.py."""

import gzip
import importlib.util
import json
import struct

import torch
from safetensors.torch import load_file, save_file

from minibert.wordpiece import SPECIAL_TOKENS, wordpiece_tokenizer

DEEP = "[" * 100_000

# -------------------------------------------- makers: each returns a function of the folder and pytest's monkeypatch


def text(name, content):
    """A file with this content, text or bytes."""

    def make(here, patch):
        raw = content if isinstance(content, bytes) else content.encode()
        (here / name).write_bytes(raw)

    return make


def remove(name):
    return lambda here, patch: (here / name).unlink()


def cut(name, share=0.5):
    def make(here, patch):
        raw = (here / name).read_bytes()
        (here / name).write_bytes(raw[: int(len(raw) * share)])

    return make


def squad(change):
    """data.json after change(data, first paragraph, its first question)."""

    def make(here, patch):
        data = json.loads((here / "data.json").read_text(encoding="utf-8"))
        paragraph = data["data"][0]["paragraphs"][0]
        change(data, paragraph, paragraph["qas"][0])
        (here / "data.json").write_text(json.dumps(data))

    return make


def put(place, name, value):
    """For `squad`: data, paragraph or question or its answer gets another value."""
    number = ("data", "paragraph", "question", "answer").index(place)
    return squad(lambda *parts: (*parts, parts[2]["answers"][0])[number].update({name: value}))


def settings(name, **changes):
    """A JSON file with other values."""

    def make(here, patch):
        content = json.loads((here / name).read_text(encoding="utf-8")) | changes
        (here / name).write_text(json.dumps(content))

    return make


def weights(name, change):
    """A safetensors file whose tensors change(tensors) has changed in place."""

    def make(here, patch):
        tensors = load_file(here / name)
        change(tensors)
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, here / name)

    return make


def header(change):
    """model.safetensors with change(header: dict) applied to its header, the lengths set right."""

    def make(here, patch):
        raw = (here / "model" / "model.safetensors").read_bytes()
        size = struct.unpack("<Q", raw[:8])[0]
        content = json.loads(raw[8 : 8 + size])
        change(content)
        new = json.dumps(content).encode()
        (here / "model" / "model.safetensors").write_bytes(struct.pack("<Q", len(new)) + new + raw[8 + size :])

    return make


def packed(content):
    return text("data.json.gz", content)


def small_limit(make):
    def limited(here, patch):
        patch.setattr("squad.examples.LARGEST", 1000)
        make(here, patch)

    return limited


def folder_for_data(here, patch):
    (here / "data.json").unlink()
    (here / "data.json").mkdir()


def tokenizer_file(tokenizer):
    return text("model/tokenizer.json", tokenizer.to_str())


def unknown_word_removed(here):
    content = json.loads((here / "model" / "tokenizer.json").read_text(encoding="utf-8"))
    del content["model"]["vocab"]["[UNK]"]
    (here / "model" / "tokenizer.json").write_text(json.dumps(content))


def vocabulary(content):
    def make(here, patch):
        (here / "model" / "tokenizer.json").unlink()
        (here / "model" / "vocab.txt").write_bytes(content)

    return make


def index(content):
    def make(here, patch):
        (here / "model" / "model.safetensors").unlink()
        (here / "model" / "model.safetensors.index.json").write_text(content)

    return make


def damage_checkpoints(here, patch):
    for path in (here / "run" / "checkpoint").iterdir():
        path.write_bytes(b"")


def nothing(here, patch):
    pass


def not_installed(name):
    def make(here, patch):
        find = importlib.util.find_spec
        patch.setattr(importlib.util, "find_spec", lambda other: None if other == name else find(other))

    return make


def spelled_twice(tensors):
    tensors[WORDS.removeprefix("bert.")] = tensors[WORDS].clone()


WEIGHTS, ADAPTER = "model/model.safetensors", "adapter/adapter_model.safetensors"
KEY = "base_model.model.bert.encoder.layer.0.attention.self.key.lora_A.weight"
WORDS = "bert.embeddings.word_embeddings.weight"
HUGE = {"dtype": "F32", "shape": [2**40, 2**10], "data_offsets": [0, 2**52]}
RUN, ASK = ["--resume", "run"], "minibert"
GZIPPED = ["--train", "data.json.gz"]
# a row of the table -> what makes it so, and the flags to run train.py with after those of `flags`; ASK: minibert
CASES = {
    "no such file": remove("data.json"),
    "a folder": folder_for_data,
    "empty file": text("data.json", ""),
    "truncated": cut("data.json"),
    "truncated gzip": (packed(gzip.compress(b'{"data": []}')[:-9]), GZIPPED),
    "not UTF-8": text("data.json", '{"data": "é"}'.encode("latin-1")),
    "not JSON": text("data.json", "version: 2"),
    "a NUL byte": text("data.json", b'{"data": "\0"}'),
    "nested 100,000 deep": text("data.json", '{"data": ' + DEEP),
    "a number of 5,000 digits": text("data.json", '{"data": ' + "1" * 5000 + "}"),
    "too large": small_limit(nothing),
    "too large when unpacked": (small_limit(packed(gzip.compress(b" " * 10**6))), [*GZIPPED, "--dev", "data.json.gz"]),
    "a list": text("data.json", "[]"),
    "no data": text("data.json", "{}"),
    "no question at all": text("data.json", '{"data": []}'),
    "no question with an answer, --answerable-only": (
        squad(lambda data, paragraph, qa: (data["data"].pop(), paragraph.update(qas=[paragraph["qas"][2]]))),
        ["--answerable-only"],
    ),
    "context is no text": put("paragraph", "context", 7),
    "question is no text": put("question", "question", None),
    "an id twice": put("question", "id", "Vin1"),
    "offset NaN": put("answer", "answer_start", float("nan")),
    "offset Infinity": put("answer", "answer_start", float("inf")),
    "offset negative": put("answer", "answer_start", -1),
    "offset beyond the end": put("answer", "answer_start", 1000),
    "answer not in the context": put("answer", "text", "a wizard"),
    "answer empty": put("answer", "text", ""),
    "is_impossible with answers": put("question", "is_impossible", True),
    "half a surrogate pair": put("question", "question", "who \ud83d"),
    "half a surrogate pair in a title": squad(lambda data, *_: data["data"][0].update(title="\ud83d")),
    "NUL in the context": put("paragraph", "context", "vin\0 is a mistborn"),
    "config missing": remove("model/config.json"),
    "config not JSON": text("model/config.json", "{"),
    "config nested 100,000 deep": text("model/config.json", DEEP),
    "config too large": text("model/config.json", b" " * (2**26 + 1)),
    "config a list": text("model/config.json", "[]"),
    "heads that do not divide": settings("model/config.json", num_attention_heads=5),
    "negative size": settings("model/config.json", intermediate_size=-20),
    "a billion layers": settings("model/config.json", num_hidden_layers=10**9),
    "a size of text": settings("model/config.json", hidden_size="12"),
    "a size too many for the weights": settings("model/config.json", vocab_size=16_000_000),
    "another architecture": settings("model/config.json", model_type="gpt2"),
    "fewer words than the tokenizer": lambda here, patch: (
        settings("model/config.json", vocab_size=50)(here, patch),
        weights(WEIGHTS, lambda t: t.update({WORDS: t[WORDS][:50]}))(here, patch),
    ),
    "fewer positions than a window": lambda here, patch: (
        settings("model/config.json", max_position_embeddings=32)(here, patch),
        weights(WEIGHTS, lambda t: t.update({k: v[:32] for k, v in t.items() if "position" in k}))(here, patch),
    ),
    "weights missing": remove(WEIGHTS),
    "weights empty": text(WEIGHTS, ""),
    "weights truncated": cut(WEIGHTS, 0.9),
    "header longer than the file": text(WEIGHTS, struct.pack("<Q", 2**60) + b"{}"),
    "header of another length": lambda here, patch: (here / WEIGHTS).write_bytes(
        struct.pack("<Q", 100) + (here / WEIGHTS).read_bytes()[8:]
    ),
    "shapes of a petabyte": header(lambda h: h.update({"qa_outputs.bias": HUGE})),
    "tensors that overlap": header(
        lambda h: h["qa_outputs.bias"].update(data_offsets=[x - 4 for x in h["qa_outputs.bias"]["data_offsets"]])
    ),
    "whole numbers as weights": weights(WEIGHTS, lambda t: t.update({"qa_outputs.bias": torch.zeros(2).long()})),
    "a weight missing": weights(WEIGHTS, lambda t: t.pop("bert.encoder.layer.1.output.dense.bias")),
    "half a head": weights(WEIGHTS, lambda t: t.pop("qa_outputs.bias")),
    "a weight too many": weights(WEIGHTS, lambda t: t.update({"bert.extra.weight": torch.zeros(1)})),
    "a weight of another shape": weights(WEIGHTS, lambda t: t.update({"qa_outputs.bias": torch.zeros(3)})),
    "a weight in two spellings": weights(WEIGHTS, spelled_twice),
    "NaN weights": weights(WEIGHTS, lambda t: t["qa_outputs.bias"].fill_(float("nan"))),
    "index not JSON": index("{"),
    "shard outside the folder": index('{"weight_map": {"qa_outputs.bias": "../secret.safetensors"}}'),
    "no tokenizer": remove("model/tokenizer.json"),
    "tokenizer not JSON": text("model/tokenizer.json", "tokens"),
    "tokenizer truncated": cut("model/tokenizer.json"),
    "tokenizer of another model": tokenizer_file(
        wordpiece_tokenizer([*SPECIAL_TOKENS, *(f"w{i}" for i in range(195))])
    ),
    "tokenizer without [CLS]": lambda here, patch: (here / "model" / "tokenizer.json").write_text(
        (here / "model" / "tokenizer.json").read_text(encoding="utf-8").replace("[CLS]", "[cls]")
    ),
    "tokenizer without its unknown word": lambda here, patch: (
        settings("model/tokenizer.json", added_tokens=[])(here, patch),
        unknown_word_removed(here),
        squad(lambda data, paragraph, qa: paragraph.update(context=paragraph["context"] + "\u4e2d"))(here, patch),
    ),
    "vocab.txt not UTF-8": vocabulary(b"\xff[PAD]\n"),
    "vocab.txt without [SEP]": vocabulary(b"[PAD]\n[UNK]\n[CLS]\n[MASK]\n"),
    "adapter config missing": (remove("adapter/adapter_config.json"), ASK),
    "adapter config not JSON": (text("adapter/adapter_config.json", "{"), ASK),
    "adapter config nested 100,000 deep": (text("adapter/adapter_config.json", DEEP), ASK),
    "adapter config a list": (text("adapter/adapter_config.json", "[]"), ASK),
    "adapter weights truncated": (cut(ADAPTER), ASK),
    "adapter of another kind": (settings("adapter/adapter_config.json", peft_type="IA3"), ASK),
    "an option of PEFT that we lack": (settings("adapter/adapter_config.json", use_dora=True), ASK),
    "a base that leaves the folder": (
        settings("adapter/adapter_config.json", base_model_name_or_path="../../../etc"),
        ASK,
    ),
    "a base that is no name": (settings("adapter/adapter_config.json", base_model_name_or_path=["a"]), ASK),
    "a pattern that hangs a regex": (settings("adapter/adapter_config.json", alpha_pattern={"(a+)+$": 3}), ASK),
    "a scale that is no number": (settings("adapter/adapter_config.json", lora_alpha=float("nan")), ASK),
    "NaN in the adapter": (weights(ADAPTER, lambda t: t[KEY].fill_(float("nan"))), ASK),
    "whole numbers in the adapter": (weights(ADAPTER, lambda t: t.update({KEY: t[KEY].long()})), ASK),
    "adapter for another base": (
        weights(ADAPTER, lambda t: t.update({k.replace("layer.1", "layer.7"): t.pop(k) for k in list(t)})),
        ASK,
    ),
    "adapter of another size": (weights(ADAPTER, lambda t: t.update({KEY: t[KEY][:, :7]})), ASK),
    "half an adapter": (weights(ADAPTER, lambda t: t.pop(KEY)), ASK),
    "settings not JSON": (text("adapter/qa.json", "{"), ASK),
    "settings not numbers": (settings("adapter/qa.json", max_length="many"), ASK),
    "settings with half a token": (settings("adapter/qa.json", max_length=384.5), ASK),
    "settings that are a switch": (settings("adapter/qa.json", temperature=True), ASK),
    "settings not finite": (settings("adapter/qa.json", null_threshold=float("nan")), ASK),
    "settings with a share that is none": (settings("adapter/qa.json", dev_answerable=1.0, null_scale=2.0), ASK),
    "settings with a scale of 0": (settings("adapter/qa.json", dev_answerable=0.5, null_scale=0), ASK),
    "evaluating with settings that are none": (text("run/adapter/qa.json", "[]"), ["--evaluate", "run"]),
    "training options of an evaluation": (nothing, ["--evaluate", "run", "--epochs", "9", "--batch-size", "64"]),
    "a rank beyond the layers": (nothing, ["--lora-rank", str(10**9)]),
    "checkpoints every 0 steps": (nothing, ["--checkpoint-every", "0"]),
    "a language that is no code": (nothing, ["--language", "Urdu"]),
    "a tracker that is not installed": (not_installed("tensorboard"), ["--track", "tensorboard"]),
    "overlap beyond the window": (nothing, ["--window-overlap", "39"]),
    "resuming nothing": (nothing, ["--resume", "nowhere"]),
    "resuming a run of another version": (settings("run/config.json", colour="red"), RUN),
    "resuming with a text for a number": (settings("run/config.json", epochs="many"), RUN),
    "resuming with a choice that is none": (settings("run/config.json", precision="fp8"), RUN),
    "resuming without a name": (nothing, ["--resume", ""]),
    "fewer epochs than are done": (nothing, [*RUN, "--epochs", "1"]),
    "other questions for a finished run": (nothing, [*RUN, "--max-dev-examples", "5"]),
    "a revision of a folder": (nothing, ["--revision", "v7"]),
    "all checkpoints damaged": (damage_checkpoints, RUN),
    "a folder that holds a run": (nothing, ["--output", "run"]),
    "a file as output": (nothing, ["--output", "data.json"]),
}
