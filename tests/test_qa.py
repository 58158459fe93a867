"""minibert.qa from the command line, and every kind of model it takes."""

import dataclasses
import gzip
import io
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from helpers import CONTEXTS, HEAD, OFFLINE, ROOT, flags

import lora
import minibert
import squad
import train
from minibert.qa import __main__ as cli
from minibert.qa import export, load_model, load_reader, window_sizes
from minibert.qa.__main__ import main
from squad.words import marked_sentence, printable


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "vin.txt"
    path.write_text(CONTEXTS["Vin"], encoding="utf-8")
    return str(path)


def ask(run, text, *more):
    return main(["--model", str(run), "--precision", "fp32", "--context", text, *more])


# ------------------------------------------------------------------------------------------ models


def test_a_run_brings_its_threshold_temperature_and_windows(run):
    reader = load_reader(run, precision="fp32")
    saved = json.loads((run / "adapter" / "qa.json").read_text(encoding="utf-8"))
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert reader.null_threshold == saved["null_threshold"] == metrics["threshold"]
    assert reader.temperature == saved["temperature"] == metrics["calibration"]["temperature"]
    assert reader.best_bonus == saved["best_bonus"] == metrics["calibration"]["best_bonus"]
    assert (reader.max_length, reader.window_overlap, reader.max_question_tokens) == (40, 8, 8)
    assert load_reader(run, max_length=30).max_length == 30


def test_run_adapter_and_exported_folder_give_the_same_logits(run, exported, inputs):
    adapted = minibert.load_pretrained(json.loads((run / "config.json").read_text(encoding="utf-8"))["model"])
    lora.load_adapter(adapted, run / "adapter", minibert.checkpoint_names(adapted.config), HEAD)
    with torch.no_grad():
        expected = torch.stack(adapted(*inputs))
        for name in (run, run / "adapter", exported):
            model, _, settings = load_model(name)
            torch.testing.assert_close(torch.stack(model(*inputs)), expected, rtol=0, atol=1e-5)
            assert settings == json.loads((run / "adapter" / "qa.json").read_text(encoding="utf-8"))


def test_transformers_loads_the_exported_folder(exported, inputs):
    transformers = pytest.importorskip("transformers")
    theirs, info = transformers.AutoModelForQuestionAnswering.from_pretrained(exported, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    ids, types, mask = inputs
    with torch.no_grad():
        out = theirs.eval()(input_ids=ids, token_type_ids=types, attention_mask=mask)
        ours = load_model(exported)[0](*inputs)
    for one, other in zip((out.start_logits, out.end_logits), ours, strict=True):
        torch.testing.assert_close(one[mask.bool()], other[mask.bool()], rtol=0, atol=1e-5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    assert tokenizer("who is vin", "vin")["input_ids"] == [
        minibert.load_tokenizer(exported).token_to_id(t) for t in ["[CLS]", "who", "is", "vin", "[SEP]", "vin", "[SEP]"]
    ]


def test_a_full_fine_tuning_run(tiny, tmp_path, text):
    folder = tmp_path / "full"
    assert train.main(flags(tiny, folder, "--lora-rank", "0", "--epochs", "1")) == 0
    assert ask(folder, text, "--question", "who is vin") == 0
    trained, _, _ = load_model(folder)
    assert not torch.equal(
        trained.bert.layers[0].query.weight, minibert.load_pretrained(tiny).bert.layers[0].query.weight
    )


def test_models_that_cannot_answer(tiny, run, tmp_path):
    unfinished = tmp_path / "unfinished"
    (unfinished / "checkpoint").mkdir(parents=True)
    with pytest.raises(ValueError, match="has saved no model yet"):
        load_reader(unfinished)
    headless = tmp_path / "headless"
    minibert.save_pretrained(minibert.load_pretrained(tiny), headless)
    from safetensors.torch import load_file, save_file

    weights = load_file(headless / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "qa_outputs" not in k}, headless / "model.safetensors")
    with pytest.raises(minibert.CheckpointError, match="has no QA head"):
        load_reader(headless)
    adapter = tmp_path / "adapter"
    shutil.copytree(run / "adapter", adapter)
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file({k: v for k, v in weights.items() if "qa_outputs" not in k}, adapter / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(headless)}))
    with pytest.raises(minibert.CheckpointError, match="has no QA head"):  # neither has: a random one would answer
        load_reader(adapter)
    for content in ('{"null_threshold": "high"}', '{"max_length": Infinity}', "[1]", "3", "{", '{"temperature": NaN}'):
        (tmp_path / "qa.json").write_text(content)
        with pytest.raises(ValueError, match=r"qa\.json: "):
            squad.read_settings(tmp_path / "qa.json")
    with pytest.raises(ValueError, match="is not empty"):
        export(run, tmp_path)


# ---------------------------------------------------------------------------------------- one question


def test_answer_is_printed_with_its_sentence(run, text, capsys):
    assert ask(run, text, "--question", "who is vin", "--null-threshold", "1e9", "--top-k", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    reader = load_reader(run, precision="fp32", null_threshold=1e9)
    expected = reader("who is vin", CONTEXTS["Vin"], top_k=2)
    assert lines[0] == f"1. {expected[0]['answer']}  ({expected[0]['score']:.1%})"
    assert f"[[{expected[0]['answer']}]]" in lines[1]
    assert lines[2].startswith("2. ")


def test_json_has_offsets(run, text, capsys):
    assert ask(run, text, "--question", "who is vin", "--json", "--null-threshold", "1e9") == 0
    content = json.loads(capsys.readouterr().out)
    assert CONTEXTS["Vin"][content["start"] : content["end"]] == content["answer"] != ""
    assert content["candidates"][0]["answer"] == content["answer"]


def test_no_answer_is_said(run, text, capsys):
    assert ask(run, text, "--question", "who is vin", "--null-threshold", "-1000000") == 0
    assert capsys.readouterr().out.startswith("the text does not say  (")


def test_marked_sentence():
    context = "One is here.  Two is\there! Three\nFour"
    assert marked_sentence(context, 14, 17) == "[[Two]] is here!"
    assert marked_sentence(context, 14, 17, color=True) == "\x1b[1;7mTwo\x1b[0m is here!"
    assert marked_sentence(context, 0, 3) == "[[One]] is here."
    assert marked_sentence(context, 27, 32) == "[[Three]]"
    assert marked_sentence("a" * 50, 25, 26, reach=3) == "aaa[[a]]aaa"
    chinese = "\u4e00\u4e8c\u3002\u4e09\u56db\uff01\u4e94"  # no space behind a full stop
    assert marked_sentence(chinese, 3, 4) == "[[\u4e09]]\u56db\uff01"
    assert marked_sentence("\u0905 \u0964 \u0906 \u0907 \u0964 \u0908", 4, 5) == "[[\u0906]] \u0907 \u0964"


def test_a_text_cannot_command_the_terminal():
    assert printable("a\x1b[2Jb\u202ec\nd\u05d0") == "a [2Jb c d\u05d0"


def test_a_conversation(run, text):
    command = [sys.executable, "-m", "minibert.qa", "--model", str(run), "--context", text]
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    for asked, mistakes in ((b"who is vin\n\nwho is kelsier\n", 0), (b"caf\xe9\nwho is vin\nwho is kelsier\n", 1)):
        done = subprocess.run(command, cwd=ROOT, env=strict, input=asked, capture_output=True, timeout=120)
        assert (done.returncode, done.stdout.count(b"%)")) == (0, 2)
        assert done.stderr.startswith(f"{len(CONTEXTS['Vin'])} characters of text; Ctrl-D ends\n".encode())
        assert done.stderr.count(b"minibert:") == mistakes


# --------------------------------------------------------------------------------------- many questions


def test_batch_answers_in_order_and_names_bad_lines(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "CHUNK", 2)
    good = [{"id": i, "question": "who is vin", "context": CONTEXTS["Vin"][: 20 + 9 * i]} for i in range(4)]
    lines = [json.dumps(item).encode() for item in good]
    bad = [b"{", b"[]", b'{"question": "who"}', b'{"question": " ", "context": "a"}', b"\xff", b'"\\ud800"',
           b'{"id": "\\ud800", "question": "who", "context": "a"}', b"[" * 100_000]  # fmt: skip
    path = tmp_path / "questions.jsonl"
    path.write_bytes(b"\n".join([lines[0], *bad, lines[1], b"", lines[2], lines[3]]) + b"\n")
    assert main(["--model", str(run), "--precision", "fp32", "--batch", str(path)]) == 1
    out, err = capsys.readouterr()
    found = [json.loads(line) for line in out.splitlines()]
    assert [item["id"] for item in found] == [0, 1, 2, 3]
    reader = load_reader(run, precision="fp32")
    for item, asked in zip(found, good, strict=True):
        expected = reader(asked["question"], asked["context"])
        assert (item["answer"], item["start"], item["end"]) == (expected["answer"], expected["start"], expected["end"])
    assert [f"line {number}:" in err for number in range(1, 14)] == [False] + [True] * 8 + [False] * 4
    assert "8 bad lines" in err


def test_batch_to_a_file_with_candidates(run, tmp_path):
    (tmp_path / "q.jsonl").write_text('{"id": "a", "question": "who is vin", "context": "vin is a mistborn"}\n')
    out = tmp_path / "answers.jsonl"
    assert main(["--model", str(run), "--batch", str(tmp_path / "q.jsonl"), "--output", str(out), "--top-k", "3"]) == 0
    content = json.loads(out.read_text(encoding="utf-8"))
    assert content["id"] == "a"
    assert len(content["candidates"]) == 3


@pytest.mark.parametrize("zipped", [False, True])
def test_squad_in_predictions_out(run, tiny, tmp_path, zipped):
    source = tiny / "squad.json"
    if zipped:
        source = tmp_path / "squad.json.gz"
        source.write_bytes(gzip.compress((tiny / "squad.json").read_bytes()))
    out = tmp_path / "predictions.json"
    assert main(["--model", str(run), "--precision", "fp32", "--batch", str(source), "--output", str(out)]) == 0
    # the run evaluated the same file at the same threshold
    assert json.loads(out.read_text(encoding="utf-8")) == json.loads(
        (run / "predictions.json").read_text(encoding="utf-8")
    )
    squad.official_metrics(squad.read_examples(source), json.loads(out.read_text(encoding="utf-8")))


def test_a_test_set_without_gold_answers(run, tiny, tmp_path):
    data = json.loads((tiny / "squad.json").read_text(encoding="utf-8"))
    for article in data["data"]:
        for qa in article["paragraphs"][0]["qas"]:
            del qa["answers"], qa["is_impossible"]
    (tmp_path / "test.json").write_text(json.dumps(data))
    out = tmp_path / "predictions.json"
    arguments = ["--batch", str(tmp_path / "test.json"), "--output", str(out)]
    assert main(["--model", str(run), "--precision", "fp32", *arguments]) == 0
    assert json.loads(out.read_text(encoding="utf-8")) == json.loads(
        (run / "predictions.json").read_text(encoding="utf-8")
    )


# ---------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--context", "nowhere.txt", "--question", "who"], "nowhere.txt"),
        (["--context", "latin1.txt", "--question", "who"], "latin1.txt: not UTF-8 text (byte 3)"),
        (["--context", "text.txt", "--question", " "], "question is blank"),
        (["--batch", "nowhere.jsonl"], "minibert: nowhere.jsonl: No such file or directory"),
        (["--batch", "text.txt.json"], "no such file"),
        (["--context", "text.txt", "--question", "who", "--model", "no/such/model"], "no/such/model"),
        (["--context", "text.txt", "--question", "who", "--top-k", "0"], "--top-k is 0"),
        (["--context", "-"], "--context - needs --question"),
        (["--serve", "--output", "x"], "--output needs --batch"),
        (["--serve", "--port", "70000"], "--port is 70000"),
        (["--batch", ""], "No such file"),
        (["--batch", "text.txt", "--output", "./text.txt"], "it would be overwritten"),
        (["--batch", "predictions.json"], "it would be overwritten"),  # the default --output
        (["--export", "out", "--answerable", "0.9"], "--answerable changes nothing in --export"),
        (["--export", "out", "--null-threshold", "1"], "--null-threshold changes nothing in --export"),
        (["--serve", "--top-k", "2"], "--top-k is for --context"),
        (["--batch", "text.json.gz", "--top-k", "2"], "--top-k is for --context"),
        (["--batch", "text.txt", "--json"], "--json needs --context"),
        (["--serve", "--json"], "--json needs --context"),
        (["--context", "text.txt", "--question", "who", "--null-threshold", "nan"], "null threshold is nan"),
        (["--serve", "--question", "who"], "--question needs --context"),
        (["--context", "text.txt", "--question", "who", "--port", "80"], "--port needs --serve"),
        (["--export", "out", "--device", "cpu"], "--device changes nothing in --export"),
        (["--export", "out", "--precision", "bf16"], "--precision changes nothing in --export"),
        (["--batch", "text.txt", "--output", "nowhere/x.jsonl"], "there is no folder nowhere"),
        (["--batch", "blank.json", "--output", "."], "--output is ., a folder, expected the name of a file"),
        (["--context", "text.txt", "--question", "who", "--port", "0"], "--port needs --serve"),
        (["--batch", "blank.json"], "blank.json: question one is blank, expected a question"),
        ([], "one of the arguments"),
    ],
)
def test_mistakes_are_one_line_and_status_2(run, tmp_path, arguments, message):
    (tmp_path / "latin1.txt").write_bytes(b"caf\xe9")
    (tmp_path / "text.txt").write_text("vin")
    (tmp_path / "predictions.json").write_text("{}")
    paragraph = {"context": "vin", "qas": [{"id": "one", "question": " "}]}
    (tmp_path / "blank.json").write_text(json.dumps({"data": [{"title": "x", "paragraphs": [paragraph]}]}))
    model = [] if "--model" in arguments else ["--model", str(run)]
    done = subprocess.run(
        [sys.executable, "-m", "minibert.qa", *arguments, *model],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, env={**OFFLINE, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("minibert: ") and message in line
    assert done.stdout == ""


def test_text_from_standard_input(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfvin is a mistborn")))
    assert main(["--model", str(run), "--context", "-", "--question", "who is vin", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert "vin is a mistborn"[content["start"] : content["end"]] == content["answer"]


@pytest.mark.parametrize("positions", [512, 384, 194, 64, 12])
def test_windows_of_a_model_that_says_nothing_leave_room_to_step(config, positions):
    sizes = window_sizes(dataclasses.replace(config, max_position_embeddings=positions))
    assert sizes["max_length"] == min(384, positions)
    assert sizes["window_overlap"] < sizes["max_length"] - 3 - sizes["max_question_tokens"]
    if positions >= 384:
        assert (sizes["window_overlap"], sizes["max_question_tokens"]) == (128, 64)
