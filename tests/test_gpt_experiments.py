"""The experiments that a GPT-2 takes part in, on a tiny one."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers import read

import minigpt
import minigpt.small
import squad
from experiments import ablate, decoding, padding, pointing
from minigpt.qa import load_writer
from squad.prompts import make_prompts

PNG = b"\x89PNG"


def test_decoding_scores_nine_ways_over_seeds(gpt_answers, tiny, tmp_path, capsys):
    arguments = [
        "--model",
        str(gpt_answers),
        "--dev",
        str(tiny / "squad.json"),
        "--output",
        str(tmp_path),
        "--seeds",
        "2",
    ]
    assert decoding.main(arguments) == 0
    rows = {row["way"]: row["passes"] for row in read(tmp_path / "results.json")}
    expected = {
        "greedy": {},
        **{f"top-k {k}": {"temperature": 1.0, "top_k": k} for k in (10, 25, 50)},
        **{f"nucleus {p}": {"temperature": 1.0, "top_p": p} for p in (0.8, 0.9, 0.95)},
        **{f"temperature {t}": {"temperature": t} for t in (0.7, 1.3)},
    }
    assert list(rows) == list(expected)
    assert expected == decoding.WAYS
    assert (tmp_path / "decoding.png").read_bytes().startswith(PNG)
    assert [len(passes) for passes in rows.values()] == [1] + [2] * 8
    metrics = read(gpt_answers / "metrics.json")  # greedy writes what the run's own evaluation wrote
    assert rows["greedy"][0]["f1"] == metrics["f1"]
    assert rows["temperature 1.3"][0] != rows["temperature 1.3"][1]
    written = read(gpt_answers / "predictions.json")
    assert rows["greedy"][0]["silent"] == list(written.values()).count("") / len(written)
    table = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert f'Always "" has F1 {100 * 8 / 24:.2f}.' in table.replace("\n", " ")
    assert table in capsys.readouterr().out


def test_pointing_and_writing_are_scored_on_the_same_questions(gpt_answers, run, tiny, tmp_path):
    files = ["--reader", str(run), "--writer", str(gpt_answers), "--dev", str(tiny / "squad.json")]
    assert pointing.main([*files, "--output", str(tmp_path)]) == 0
    rows = {row["figure"]: row for row in read(tmp_path / "results.json")}
    assert rows["F1"]["writes"] == f"{read(gpt_answers / 'metrics.json')['f1']:.2f}"
    assert rows["answers that stand in the text"]["points"] in ("100%", "none given")
    table = (tmp_path / "results.md").read_text(encoding="utf-8").replace("\n", " ")
    assert f'always "" has F1 {100 * 8 / 24:.2f} on dev' in table


def test_odds_of_silence_are_a_product_over_its_tokens_and_their_area_is_counted(gpt_answers, tiny):
    writer, examples = load_writer(gpt_answers, "cpu", "fp32"), squad.read_examples(tiny / "squad.json")[:7]
    for silence in ("", "no idea"):
        writer.silence = silence
        odds = pointing.silence_log_probabilities(writer, examples)
        for example, found in zip(examples, odds, strict=True):
            unanswered = dataclasses.replace(example, answers=())
            prompts = make_prompts([unanswered], writer.tokenizer, writer.max_length, 0, silence=silence)
            ids, expected = torch.from_numpy(prompts.ids[0])[None], 0.0
            for at in range(ids.size(1) - int(prompts.answer_tokens[0]), ids.size(1)):  # one token after the other
                logits = writer.model(ids[:, :at], torch.ones_like(ids[:, :at]))[0, -1]
                expected += float(logits.log_softmax(-1)[ids[0, at]])
            assert found == pytest.approx(expected, rel=1e-4)
    is_impossible = [not example.answers for example in examples]
    assert len(set(is_impossible)) == 2
    for values in (np.arange(7.0), np.array([1.0, 1, 2, 2, 2, 0, 1])):
        pairs = [(a, b) for a, no in zip(values, is_impossible, strict=True) if no
                 for b, none in zip(values, is_impossible, strict=True) if not none]  # fmt: skip
        counted = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)
        assert pointing.tells_unanswerable(examples, values) == pytest.approx(counted)


def test_ablate_runs_its_configurations_of_gpt(gpt_text, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(ablate, "GPT_FIVE", (ablate.GPT_FIVE[0], ablate.GPT_FIVE[3]))  # rank 32 exceeds this width
    file, questions = str(tiny / "squad.json"), ("--questions", "10", "--held", "6", "--gpt", str(gpt_text / "model"))
    more = ("--", "--max-length", "140", "--max-answer-tokens", "4", "--precision", "fp32")
    assert ablate.main(["--train", file, "--dev", file, "--output", str(tmp_path), *questions, *more]) == 0
    rows = read(tmp_path / "results.json")
    assert (tmp_path / "ablate.png").read_bytes().startswith(PNG)
    assert [(r["rank"], r["alpha"], r["targets"]) for r in rows] == [(r, a, t) for r, a, _, t in ablate.GPT_FIVE]
    # rank 4 on c_attn, (24 -> 72), of two layers; rank 8 there and on mlp.c_proj, (96 -> 24)
    assert rows[0]["parameters"] == 2 * 4 * (24 + 72)
    assert rows[1]["parameters"] == 2 * 8 * (24 + 72 + 96 + 24)
    plain = sum(p.numel() for p in minigpt.load_pretrained(gpt_text / "model").parameters())
    assert rows[0]["share"] == rows[0]["parameters"] / (plain + rows[0]["parameters"])
    best = min(rows, key=lambda row: row["held"]["loss"])
    assert f"chosen by the loss on 6 questions of held-out articles: rank {best['rank']}," in (
        tmp_path / "results.md"
    ).read_text(encoding="utf-8").replace("\n", " ")


def test_padding_changes_no_loss_of_gpt_and_is_measured(gpt_text, tiny, tmp_path):
    file, model = str(tiny / "squad.json"), str(gpt_text / "model")
    task, ids = padding.gpt_task(file, model), np.array([0, 2, 1])
    torch.testing.assert_close(task.loss(ids, 0), task.loss(ids, 140))
    files = ("--train", file, "--questions", "6", "--output", str(tmp_path), "--passes", "1", "--batch-size", "3")
    assert padding.main([*files, "--gpt", model]) == 0
    assert (tmp_path / "padding.png").read_bytes().startswith(PNG)
    static, dynamic, alike = read(tmp_path / "results.json")
    assert static["waste"] > dynamic["waste"] >= alike["waste"] >= 0
    assert static["windows"] == dynamic["windows"] == alike["windows"] == 6
