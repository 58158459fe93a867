"""--track: trackers get log.jsonl's own figures, and the log does not change; the real packages where installed."""

import importlib.machinery
import json
import os
import shutil
import signal
import struct
import subprocess
import sys

import pytest
from helpers import ROOT, flags, read_log, sigterm_at

import minirun
import train
from minirun.log import RunLog
from minirun.track import NoTracker, open_tracker

RECIPE = ("--epochs", "3", "--learning-rate", "0.02", "--eval-every", "7")


class Fake(NoTracker):
    def __init__(self):
        self.sent, self.closed = [], 0

    def send(self, values):
        self.sent.append(dict(values))

    def close(self):
        self.closed += 1


def opened(monkeypatch):
    """The fake trackers that are opened from here on, each with what it was opened with."""
    all_of_them = []

    def fake_tracker(*given):
        all_of_them.append((given, Fake()))
        return all_of_them[-1][1]

    monkeypatch.setattr(minirun, "check_tracker", lambda name: None)  # the package need not be here
    monkeypatch.setattr("minirun.record.open_tracker", fake_tracker)
    return all_of_them


def test_a_tracker_is_sent_every_line_of_both_files_and_the_log_stays_the_same(tiny, tmp_path, monkeypatch):
    assert train.main(flags(tiny, tmp_path / "alone", *RECIPE)) == 0
    trackers = opened(monkeypatch)
    out = tmp_path / "run"
    assert train.main(flags(tiny, out, *RECIPE, "--track", "wandb")) == 0
    [(given, fake)] = trackers
    assert given == ("wandb", out, 0)
    assert fake.closed == 1
    assert [values for values in fake.sent if "windows_per_second" not in values] == read_log(out)
    assert [values for values in fake.sent if "windows_per_second" in values] == read_log(out, "timing.jsonl")
    assert {frozenset(line) & {"loss", "f1"} for line in read_log(out)} == {frozenset({"loss"}), frozenset({"f1"})}
    assert (out / "log.jsonl").read_bytes() == (tmp_path / "alone" / "log.jsonl").read_bytes()


def test_an_interrupted_run_sends_the_rest(tiny, tmp_path, monkeypatch):
    trackers, out = opened(monkeypatch), tmp_path / "run"
    with sigterm_at(14):
        assert train.main(flags(tiny, out, *RECIPE)) == 128 + signal.SIGTERM
    assert train.main(["--resume", str(out)]) == 0
    (_, first), (given, second) = trackers
    assert given == ("none", out, 14)
    assert (first.closed, second.closed) == (1, 1)
    sent = [values for values in first.sent + second.sent if "windows_per_second" not in values]
    assert sent == read_log(out)


def test_a_tracker_is_closed_when_a_run_fails(tiny, tmp_path, monkeypatch):
    trackers = opened(monkeypatch)
    monkeypatch.setattr(train, "training_step", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train.main(flags(tiny, tmp_path / "run"))
    assert [fake.closed for _, fake in trackers] == [1]


def test_a_process_that_writes_nothing_sends_nothing():
    fake = Fake()
    RunLog(None, 1, tracker=fake).step(1, 0.5, 3)
    assert fake.sent == []


@pytest.mark.parametrize("found", [None, importlib.machinery.ModuleSpec("wandb", None)], ids=["nothing", "a folder"])
def test_a_missing_package_is_one_line_that_says_what_to_install(found, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: found)
    minirun.check_tracker("none")
    with pytest.raises(ValueError, match=r"--track wandb needs a package .*: pip install 'wandb>=0.17'$"):
        minirun.check_tracker("wandb")


def test_an_evaluation_needs_no_tracker(run, tmp_path, monkeypatch):
    monkeypatch.setattr(minirun, "check_tracker", lambda name: pytest.fail() if name != "none" else None)
    monkeypatch.setattr("minirun.record.open_tracker", lambda *_: pytest.fail())
    shutil.copytree(run, tmp_path / "tracked")
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "tracked" / "config.json").write_text(json.dumps(config | {"track": "wandb"}))
    assert train.main(["--evaluate", str(tmp_path / "tracked"), "--output", str(tmp_path / "out")]) == 0


# --------------------------------------------------------------------------------- the real packages


@pytest.fixture
def tensorboard():
    """A reader of a run's event files: name -> [(step, value)], as TensorBoard shows them."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def read(folder):
        shown = events.EventAccumulator(str(folder / "tensorboard"))
        shown.Reload()
        return {name: [(e.step, e.value) for e in shown.Scalars(name)] for name in shown.Tags()["scalars"]}

    return read


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_shows_the_log(tiny, tmp_path, tensorboard):
    out = tmp_path / "run"
    assert train.main(flags(tiny, out, "--epochs", "2", "--track", "tensorboard")) == 0
    assert train.main(["--resume", str(out), "--epochs", "3"]) == 0  # goes on in the same place
    written = read_log(out) + read_log(out, "timing.jsonl")
    assert len(list((out / "tensorboard").iterdir())) == 2
    shown = tensorboard(out)
    assert shown.keys() == {name for line in written for name in line} - {"step"}
    for name, points in shown.items():
        expected = [(line["step"], line[name]) for line in written if name in line]
        assert [step for step, _ in sorted(points)] == sorted(step for step, _ in expected), name
        assert [v for _, v in sorted(points)] == pytest.approx([v for _, v in sorted(expected)], rel=1e-6), name


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_shows_no_point_twice_after_a_kill(tmp_path, tensorboard):
    killed = open_tracker("tensorboard", tmp_path, 0)
    for step in range(1, 7):
        killed.send({"step": step, "loss": float(step), "grad_norm": None})
    resumed = open_tracker("tensorboard", tmp_path, 3)  # from the checkpoint of step 3
    for step in range(4, 9):
        resumed.send({"step": step, "loss": 10.0 * step})
    resumed.close()
    killed.close()
    assert tensorboard(tmp_path) == {"loss": [(n, float(n)) for n in (1, 2, 3)] + [(n, 10.0 * n) for n in range(4, 9)]}


def wandb_records(path):
    """The records of a .wandb file, whose layout is LevelDB's log after 7 bytes: 32 KiB blocks, records in parts."""
    from wandb.proto.wandb_internal_pb2 import Record

    raw, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(raw):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", raw[at + 4 : at + 7])
        parts, at = parts + raw[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(parts)
            parts = b""


@pytest.mark.filterwarnings("ignore")
def test_wandb_offline_keeps_the_log_under_the_run(tiny, tmp_path):
    pytest.importorskip("wandb.proto.wandb_internal_pb2")
    out, places = tmp_path / "kelsier", ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR")
    elsewhere = {name: str(tmp_path / "elsewhere") for name in places}
    first = [*flags(tiny, out, "--epochs", "2"), "--track", "wandb"]
    for arguments in (first, ["--resume", str(out), "--epochs", "3"]):
        env = {**os.environ, **elsewhere, "WANDB_MODE": "offline"}
        command = [sys.executable, str(ROOT / "train.py"), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"kelsier", "elsewhere"}
    runs, rows = set(), {}
    for path in sorted((out / "wandb").glob("offline-run-*/*.wandb")):
        for record in wandb_records(path):
            if record.WhichOneof("record_type") == "run":
                runs.add((record.run.project, record.run.display_name, record.run.run_id))
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                rows.setdefault(record.history.step.num, {})[name] = json.loads(item.value_json)
    assert runs == {("minibert", "kelsier", (out / "wandb" / "id").read_text(encoding="utf-8"))}
    expected = {}
    for line in read_log(out) + read_log(out, "timing.jsonl"):
        expected.setdefault(line["step"], {}).update(line)
    shown = {step: {k: v for k, v in row.items() if not k.startswith("_")} for step, row in rows.items()}
    assert shown == {step: pytest.approx(row) for step, row in expected.items()}
