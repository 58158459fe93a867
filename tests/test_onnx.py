"""model.onnx: ONNX Runtime gives the model's logits, and 15 lines without PyTorch its answers."""

import subprocess
import sys

import pytest
from helpers import DATA, GOLDEN, ROOT

import minibert
import squad
from minibert.qa import load_reader, onnx
from minibert.qa.__main__ import main
from minirun import missing_packages

needs_onnx = pytest.mark.skipif(bool(missing_packages(*onnx.NEEDED)), reason="the extra [onnx] is not installed")


@needs_onnx
@pytest.mark.parametrize("name", ["tiny", "families/roberta", "families/xlm-roberta", "families/distilbert"])
def test_the_file_gives_the_models_logits_for_every_family(name, tmp_path):
    model = minibert.load_pretrained(GOLDEN / name).eval()
    assert onnx.write_onnx(model, tmp_path / "model.onnx") <= 1e-4
    for B, T in ((1, 2), (5, 9)):  # other shapes than the file was written and checked with
        inputs = onnx.example_inputs(model, B, T)
        assert inputs[0].shape == (B, T)
        assert onnx.largest_difference(model, tmp_path / "model.onnx", inputs) <= 1e-4


@needs_onnx
def test_a_file_of_another_model_is_told_apart(tmp_path, monkeypatch):
    model = minibert.load_pretrained(GOLDEN / "tiny").eval()
    onnx.write_onnx(model, tmp_path / "model.onnx")
    model.qa_outputs.bias.data += 0.01
    found = onnx.largest_difference(model, tmp_path / "model.onnx", onnx.example_inputs(model, 3, 7))
    assert found == pytest.approx(0.01, abs=1e-4)
    monkeypatch.setattr(onnx, "largest_difference", lambda *_: 2e-4)
    with pytest.raises(ValueError, match=r"logits differ by 2\.0e-04 from the model's, expected at most 0\.0001"):
        onnx.write_onnx(model, tmp_path / "again.onnx")


@needs_onnx
def test_the_example_answers_as_the_reader_does(has_minilm, tmp_path, capsys):
    folder = tmp_path / "exported"
    assert main(["--export", str(folder), "--onnx"]) == 0
    assert "model.onnx in it (largest difference of a logit from PyTorch's: " in capsys.readouterr().out
    script = ROOT / "docs" / "onnx_answer.py"
    code = script.read_text(encoding="utf-8").split('"""')[2]
    assert "torch" not in code and "minibert" not in code
    assert len([line for line in code.splitlines() if line]) == 15
    reader, said = load_reader(device="cpu", precision="fp32"), []
    for example in squad.read_examples(DATA / "dev.json.gz")[:300:75]:
        command = [sys.executable, str(script), str(folder), example.question, example.context]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.removesuffix("\n")
        said.append(printed)
        assert printed == reader(example.question, example.context)["answer"]
    assert "" in said and any(said)


def test_mistakes(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="--onnx needs --export"):
        main(["--context", "x.txt", "--question", "who", "--onnx"])
    monkeypatch.setattr(onnx, "NEEDED", ("onnx", "no_such_package"))
    with pytest.raises(ValueError, match=r"--onnx needs .*no_such_package: pip install -e '\.\[onnx\]'"):
        main(["--export", str(tmp_path / "folder"), "--onnx"])
    assert not (tmp_path / "folder").exists()
