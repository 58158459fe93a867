"""train_gpt.py end to end: a small GPT-2 learns to write, then to answer; resuming, evaluating, asking."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gpt import flags, make_run
from helpers import ROOT, checkpoint_of, read, read_log, sigterm_at

import minigpt
import minigpt.small
import minihub
import minirun
import squad
import train_gpt
from minigpt.qa import load_writer
from minigpt.qa.__main__ import main as ask
from minigpt.qa.writer import write_answers
from minihub import load_tokenizer
from squad.prompts import make_prompts


def losses(folder):
    return [line["loss"] for line in read_log(folder) if "loss" in line]


def test_a_small_model_learns_the_text_and_is_an_ordinary_checkpoint(gpt_text):
    found = losses(gpt_text)
    assert found[-1] < found[0] / 2
    model = minigpt.load_pretrained(gpt_text / "model")
    tokenizer = load_tokenizer(gpt_text / "model")
    assert tokenizer.decode(tokenizer.encode("who is vin\u06d4").ids) == "who is vin\u06d4"  # any text can be written
    assert model.config.vocab_size == tokenizer.get_vocab_size()
    assert read(gpt_text / "predictions.json") == {}


def test_a_small_model_has_the_dropout_asked_for():
    model, _ = minigpt.small.small_model(["who is vin"], n_positions=7, dropout=0.25)
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}


def test_it_learns_to_answer_and_figures_are_of_what_was_written(gpt_answers, tiny):
    found = losses(gpt_answers)
    assert found[-1] < 0.7 * found[0]  # with frozen, tied embeddings it cannot become very sure
    examples, written = squad.read_examples(tiny / "squad.json"), read(gpt_answers / "predictions.json")
    metrics = read(gpt_answers / "metrics.json")
    expected = squad.official_metrics(examples, written)
    assert {name: metrics[name] for name in expected} == expected
    assert metrics["f1"] > metrics["always_empty"]["f1"]
    assert set(written.values()) > {""}


def test_the_writer_and_the_command_say_what_the_run_wrote(gpt_answers, tiny, capsys, tmp_path):
    written, writer = read(gpt_answers / "predictions.json"), load_writer(gpt_answers, device="cpu", precision="fp32")
    for example in squad.read_examples(tiny / "squad.json")[:6]:
        assert writer(example.question, example.context) == written[example.id]
    (tmp_path / "text.txt").write_text(example.context)
    arguments = ["--model", str(gpt_answers), "--context", str(tmp_path / "text.txt"), "--question", example.question]
    assert ask(arguments) == 0
    assert capsys.readouterr().out.strip() == (written[example.id] or "the text does not say")
    for how in (["--decoding", "top-k", "--k", "3"], ["--decoding", "top-p", "--p", "0.5"]):
        assert ask([*arguments, *how]) == ask([*arguments, *how]) == 0
        first, second = capsys.readouterr().out.splitlines()
        assert first == second
    for idle, how in (("--k", ["--k", "3"]), ("--p", ["--decoding", "top-k", "--p", "0.5"])):
        with pytest.raises(ValueError, match=f"{idle}: changes nothing with --decoding"):
            ask([*arguments, *how])
    with pytest.raises(ValueError, match="--temperature 0 takes the most probable token every time: use --decoding gr"):
        ask([*arguments, "--decoding", "top-p", "--temperature", "0"])
    for seed in ("-1", str(2**64)):
        with pytest.raises(ValueError, match=f"--seed is {seed}, expected at least 0 and below"):
            ask([*arguments, "--decoding", "top-k", f"--seed={seed}"])


def test_flags_of_drawing_reach_generate(gpt_answers, tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("vin is a mistborn")
    seen, generate = [], minigpt.generate
    monkeypatch.setattr(minigpt, "generate", lambda *args, **how: seen.append(how) or generate(*args, **how))
    asked = ["--model", str(gpt_answers), "--context", str(tmp_path / "text.txt"), "--question", "who is vin"]
    for flags_, expected, seed in (
        ("", {}, None),
        ("--decoding top-k --k 3 --temperature 0.5 --seed 7", {"top_k": 3, "temperature": 0.5}, 7),
        ("--decoding top-p --p 0.25 --seed 8", {"top_p": 0.25, "temperature": 1.0}, 8),
    ):
        assert ask([*asked, *flags_.split()]) == 0
        how = seen.pop()
        assert {name: how[name] for name in ("top_k", "top_p", "temperature") if name in how} == expected
        assert (how["generator"].initial_seed() if "generator" in how else None) == seed


def test_evaluating_again_gives_the_same(gpt_answers, capsys):
    assert train_gpt.main(["--evaluate", str(gpt_answers)]) == 0
    metrics = read(gpt_answers / "metrics.json")
    shown = capsys.readouterr().out
    assert f"{metrics['f1']:.2f}" in shown and 'always ""' in shown
    assert f"{metrics['always_empty']['f1']:.2f}" in shown
    again = gpt_answers / "evaluation"
    assert read(again / "predictions.json") == read(gpt_answers / "predictions.json")
    # The adapter was merged nowhere, but its base is read anew: equal up to rounding.
    assert read(again / "metrics.json")["loss"] == pytest.approx(read(gpt_answers / "metrics.json")["loss"], rel=1e-5)


def test_each_epoch_says_both_losses_and_the_end_the_baseline(gpt_text, tiny, tmp_path, capsys):
    folder = tmp_path / "run"
    assert train_gpt.main(flags(tiny, folder, "--model", str(gpt_text / "model"), "--epochs", "2")) == 0
    out, err = capsys.readouterr()
    lines = read_log(folder)
    steps, evaluations = ([line for line in lines if name in line] for name in ("grad_norm", "dev_loss"))
    assert len(evaluations) == 2
    for found in evaluations:
        loss = np.mean([line["loss"] for line in steps if line["step"] <= found["step"]])  # of at most 50 steps
        figures = f"EM {found['exact']:.2f}, F1 {found['f1']:.2f}"
        assert f"epoch {found['epoch']:.2f}: train loss {loss:.3f}, dev loss {found['dev_loss']:.3f}, {figures}" in out
    last, baseline = evaluations[-1], read(folder / "metrics.json")["always_empty"]["f1"]
    assert out.splitlines()[-2].startswith(f"loss per token {last['dev_loss']:.3f}; EM {last['exact']:.2f}, F1 ")
    assert out.splitlines()[-2].endswith(f'always "" (baseline) F1 {baseline:.2f}')
    assert "prompts/s" in err and "windows" not in err


def test_no_more_is_read_than_is_used(gpt_answers, tiny, tmp_path):
    config = read(gpt_answers / "config.json")
    (gpt_answers / "config.json").write_text(json.dumps({**config, "train": "moved.json"}))
    try:
        assert train_gpt.main(["--evaluate", str(gpt_answers)]) == 0
    finally:
        (gpt_answers / "config.json").write_text(json.dumps(config))
    short = ("--learn", "text", "--max-length", "8", "--epochs", "1")  # shorter than any question with its frame
    assert train_gpt.main(flags(tiny, tmp_path / "run", *short)) == 0


def test_a_resumed_run_continues_as_if_it_had_not_stopped(gpt_text, tiny, tmp_path, monkeypatch):
    more = ("--model", str(gpt_text / "model"), "--epochs", "2", "--checkpoint-every", "2")
    assert train_gpt.main(flags(tiny, tmp_path / "whole", *more)) == 0
    step, taken = train_gpt.training_step, []

    def fails(*args):
        taken.append(1)
        if len(taken) == 6:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(train_gpt, "training_step", fails)
    with pytest.raises(KeyboardInterrupt):
        train_gpt.main(flags(tiny, tmp_path / "cut", *more))
    monkeypatch.setattr(train_gpt, "training_step", step)
    assert train_gpt.main(["--resume", str(tmp_path / "cut")]) == 0
    for name in ("log.jsonl", "metrics.json", "predictions.json", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_sigterm_saves_a_checkpoint_from_which_the_run_ends_as_if_left_alone(gpt_text, tiny, tmp_path, capsys):
    more = ("--model", str(gpt_text / "model"), "--epochs", "2", "--dropout", "0.1")
    assert train_gpt.main(flags(tiny, tmp_path / "whole", *more)) == 0
    with sigterm_at(8, train_gpt) as steps:  # in the second epoch of 6 steps
        assert train_gpt.main(flags(tiny, tmp_path / "cut", *more)) == 128 + signal.SIGTERM
    assert len(steps) == 8  # the step under way was finished
    assert f"continue with: python train_gpt.py --resume {tmp_path / 'cut'}" in capsys.readouterr().err
    assert train_gpt.main(["--resume", str(tmp_path / "cut")]) == 0
    for name in ("metrics.json", "predictions.json", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def gradients(run, ids, scale=0.0):
    """Those that the optimizer sees, and the loss and the norm; scale: of the loss, 0 for none."""
    seen, optimizer = {}, minirun.make_optimizer(run.model, 0.0)
    optimizer.register_step_pre_hook(
        lambda *_: seen.update({n: p.grad.clone() for n, p in run.model.named_parameters() if p.grad is not None})
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=bool(scale))
    loss, norm = train_gpt.training_step(run, ids, optimizer, scaler, 1e-3)
    return seen, (float(loss), float(norm))


def test_accumulating_equals_one_pass_though_answers_differ_in_length(gpt_text, tiny, tmp_path):
    ids = np.arange(7)
    whole, result = gradients(make_run(gpt_text, tiny, tmp_path, "--batch-size", "7"), ids)
    few = ("--batch-size", "2", "--gradient-accumulation-steps", "4")
    parts, again = gradients(make_run(gpt_text, tiny, tmp_path, *few), ids)
    assert result == pytest.approx(again, rel=1e-5)
    assert whole.keys() == parts.keys()
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], rtol=1e-4, atol=1e-6)


def test_accumulation_makes_the_step_larger_not_the_epoch_longer(gpt_text, tiny, tmp_path):
    """3 passes of 2 prompts learn what one pass of 6 does, step by step."""
    for size, passes in ((2, 3), (6, 1)):
        sizes = ("--batch-size", str(size), "--gradient-accumulation-steps", str(passes), "--epochs", "1")
        out = tmp_path / f"{size}x{passes}"
        assert train_gpt.main(flags(tiny, out, "--model", str(gpt_text / "model"), *sizes)) == 0
    assert len(losses(tmp_path / "2x3")) == len(losses(tmp_path / "6x1")) > 2
    assert losses(tmp_path / "2x3") == pytest.approx(losses(tmp_path / "6x1"), rel=1e-3)


def test_two_processes_train_and_answer_as_one(gpt_text, tiny, tmp_path):
    """Also in the last step of a pass, which has one prompt for two processes."""
    number = len(squad.read_examples(tiny / "squad.json"))
    more = ("--model", str(gpt_text / "model"), "--epochs", "3", "--learning-rate", "0.001", "--dropout", "0.0")
    more += ("--batch-size", str(next(size for size in range(3, number) if number % size == 1)))
    assert train_gpt.main(flags(tiny, tmp_path / "one", *more)) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(ROOT / "train_gpt.py"), *flags(tiny, tmp_path / "two", *more)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("everything is in") == 1
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    assert read(tmp_path / "two" / "predictions.json") == read(tmp_path / "one" / "predictions.json")
    one, two = (read(tmp_path / name / "metrics.json") for name in ("one", "two"))
    assert one.pop("loss") == pytest.approx(two.pop("loss"), rel=1e-5)
    assert one == two


def test_gradients_are_clipped_once_and_after_unscaling(gpt_text, tiny, tmp_path):
    runs = (make_run(gpt_text, tiny, tmp_path, "--max-grad-norm", norm) for norm in ("0.001", "1e9"))
    (clipped, (_, norm)), (whole, (_, again)) = (gradients(run, np.arange(7), scale=1024.0) for run in runs)
    total, unclipped = (torch.stack([g.norm() for g in each.values()]).norm().item() for each in (clipped, whole))
    assert total == pytest.approx(0.001, rel=1e-3)  # clipped scaled gradients would be 1024 times smaller
    assert norm == pytest.approx(again, rel=1e-5) == pytest.approx(unclipped, rel=1e-4)  # that before clipping


def test_silence_may_be_a_phrase(gpt_text, tiny, tmp_path):
    run = make_run(gpt_text, tiny, tmp_path, "--silence", "unanswerable")
    row = next(i for i, e in enumerate(run.examples) if not e.answers)
    assert run.tokenizer.decode(run.dev.ids[row].tolist()).endswith("Answer: unanswerable")
    assert (run.train.answer_tokens >= 2).all()


def test_a_written_phrase_of_silence_is_no_answer(gpt_text, tiny, tmp_path, monkeypatch):
    run, said = make_run(gpt_text, tiny, tmp_path), (" unanswerable", " vin ", "")
    rows = [run.tokenizer.encode(text).ids for text in said]
    eos_id = run.model.config.eos_token_id
    padded = torch.tensor([row + [eos_id] * (40 - len(row)) for row in rows])
    monkeypatch.setattr(minigpt, "generate", lambda *_, **__: padded)
    asked = make_prompts(run.examples[:3], run.tokenizer, 140, eos_id, answer_room=8)
    by_length = np.argsort(asked.lengths, kind="stable")
    for silence in ("unanswerable", "unanswerable "):
        found = write_answers(run.model, run.tokenizer, asked, 8, silence=silence)
        assert [found[row] for row in by_length] == ["", "vin", ""]


def test_options_reach_the_adapter_and_its_file(gpt_text, tiny, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(minihub.hub, "_download", lambda name, revision: gpt_text / "model")
    more = ("--model", "some/model", "--lora-dropout", "0.25", "--lora-alpha", "6", "--revision", "v7")
    assert train_gpt.main(flags(tiny, out, *more, "--epochs", "1", "--max-train-examples", "4")) == 0
    config = read(out / "adapter" / "adapter_config.json")
    assert (config["lora_dropout"], config["lora_alpha"], config["revision"]) == (0.25, 6.0, "v7")
    assert config["fan_in_fan_out"] is True  # as PEFT has to know to merge into GPT-2's transposed matrices


def test_a_run_without_a_model_says_how_to_go_on_and_asks_nobody(gpt_answers, tmp_path, monkeypatch):
    """`run/model` looks like a hub id where the run's name has no slash."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(minihub.hub, "_download", None)
    Path("run").mkdir()
    shutil.copy(gpt_answers / "config.json", "run")
    with pytest.raises(
        ValueError, match=r"^run: this run has saved no model yet; continue it: python train_gpt\.py --resume run$"
    ):
        load_writer("run")


@pytest.mark.parametrize(
    ("question", "context", "message"),
    [(" ", "vin", "blank"), ("caf\udce9", "vin", "not valid Unicode"), ("who", "caf\udce9", "not valid Unicode")],
)
def test_what_cannot_be_asked_of_a_writer(gpt_answers, question, context, message):
    with pytest.raises(ValueError, match=message):
        load_writer(gpt_answers, device="cpu")(question, context)


def test_a_text_that_is_not_utf_8_is_named(gpt_answers, tmp_path):
    (tmp_path / "latin1.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"latin1\.txt: not UTF-8 text \(byte 3\)"):
        ask(["--model", str(gpt_answers), "--context", str(tmp_path / "latin1.txt"), "--question", "who"])


def test_the_dev_loss_is_of_all_answer_tokens_alike(gpt_answers, monkeypatch):
    """Evaluated one prompt at a time and all at once."""
    loss = read(gpt_answers / "metrics.json")["loss"]
    for rows in (1, 24):
        monkeypatch.setattr(train_gpt, "ROWS", rows)
        assert train_gpt.main(["--evaluate", str(gpt_answers)]) == 0
        assert read(gpt_answers / "evaluation" / "metrics.json")["loss"] == pytest.approx(loss, rel=1e-5)


def test_the_best_text_model_is_the_one_with_the_lowest_loss(gpt_text):
    at = checkpoint_of(gpt_text)
    assert at["best"]["dev_loss"] == min(found["dev_loss"] for found in at["evaluations"])
    assert len(at["evaluations"]) == 30


def test_training_goes_on_in_training_mode_after_an_evaluation(gpt_text, tiny, tmp_path, monkeypatch):
    modes, step = [], train_gpt.training_step
    monkeypatch.setattr(
        train_gpt, "training_step", lambda run, *rest: modes.append(run.model.training) or step(run, *rest)
    )
    assert train_gpt.main(flags(tiny, tmp_path / "run", "--model", str(gpt_text / "model"), "--epochs", "2")) == 0
    assert modes == [True] * 12


def test_a_writer_leaves_room_for_its_answers_and_no_more(gpt_answers, tiny, monkeypatch):
    seen, generate = [], minigpt.generate
    monkeypatch.setattr(minigpt, "generate", lambda *args, **more: seen.append(args) or generate(*args, **more))
    example, writer = (
        squad.read_examples(tiny / "squad.json")[0],
        load_writer(gpt_answers, device="cpu", precision="fp32"),
    )
    writer.max_length, writer.max_answer_tokens = 60, 7  # so short that the context is cut
    writer(example.question, example.context)
    [(_, input_ids, _, room)] = seen
    assert (input_ids.size(1), room) == (60 - 7, 7)


def test_an_adapter_that_does_not_move_stops_the_run(gpt_text, tiny, tmp_path):
    more = ("--model", str(gpt_text / "model"), "--epochs", "9", "--learning-rate", "1e-60")
    with pytest.raises(ValueError, match="every lora_B is still zero after 50 steps at --learning-rate 1e-60"):
        train_gpt.main(flags(tiny, tmp_path / "run", *more))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-length", "4"], "--max-length is 4, expected at least 8"),
        (["--model", "no/such/model"], "no/such/model: no such folder"),
        (["--resume", "nowhere"], "nowhere/config.json: cannot be read"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(arguments, message, tmp_path):
    arguments = ["--output", str(tmp_path / "out"), *arguments]
    done = subprocess.run([sys.executable, "train_gpt.py", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("train_gpt.py: ") and message in line
    assert not (tmp_path / "out").exists()
