"""Inference against what people choose for a CPU: ONNX Runtime, OpenVINO, torch.compile, transformers as it is.

    pip install -e '.[bench,onnx]' openvino nncf && python bench/peers.py

All answer with the same merged checkpoint on the same windows in the same batches (like lengths together, 1,600 tokens
each), in turn, each in a process of its own: 500 questions of data/dev.json.gz, then single windows one by one. The
search for spans is the same code and counted for all. bf16 where the processor has it natively. Medians of the rounds.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import squad
from bench.machine import processor, resolved
from bench.table import row
from bench.worker import Worker
from minibert import qa
from minibert.qa.onnx import INPUTS, NEEDED, OUTPUTS
from minirun import choose_precision, keep_freed_memory, missing_packages, prepare_frozen

QUESTIONS, SINGLE = 500, 100
Model = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="(5)")
    parser.add_argument("--engines", nargs="+", metavar="NAME", help="such as minibert-fp32 onnxruntime-int8 (all)")
    options = parser.parse_args()
    print(processor(), torch.get_num_threads(), "threads", file=sys.stderr)
    names = options.engines or list(engines(resolved("auto", torch.device("cpu"))))
    print(table(measure(options.rounds, names)))


def engines(precision: str) -> Iterator[str]:
    """Those that can be measured here, up to this precision (fp32 or bf16); what a missing one needs is printed."""
    for kind, (_, packages, precisions) in ENGINES.items():
        if missing := missing_packages(*packages):
            print(f"{kind} is left out: pip install {' '.join(missing)}", file=sys.stderr)
            continue
        yield from (f"{kind}-{each}" for each in precisions if each != "bf16" or precision == "bf16")


def measure(rounds: int, names: list[str]) -> dict[str, dict]:
    """Name -> questions/s, p50 and p95 of a single window in ms, largest difference of a logit, F1 on all of dev."""
    with tempfile.TemporaryDirectory() as folder:
        needs_file = any(name.startswith(("onnxruntime", "openvino")) for name in names)
        qa.export(qa.load.SHIPPED, Path(folder) / "model", onnx=needs_file)
        workers = {name: Worker(prepare, name, f"{folder}/model") for name in names}
        speeds, began = {name: [] for name in names}, time.perf_counter()
        for number in range(rounds + 1):
            for name, worker in workers.items():
                seconds = worker.ask("all")
                if number:  # round 0 is a warm-up
                    speeds[name].append(QUESTIONS / seconds)
                    print(f"round {number}  {name:18} {speeds[name][-1]:6.1f} questions/s", file=sys.stderr, flush=True)
            if not number:
                left = (time.perf_counter() - began) * rounds / 60
                print(f"about {left:.0f} more minutes", file=sys.stderr, flush=True)
        found = {name: {"questions": statistics.median(speeds[name])} for name in names}
        exact = workers[names[0]].ask("logits")
        for name, worker in workers.items():
            p50, p95 = np.percentile(worker.ask("single"), [50, 95])
            difference = max(float(np.abs(a - b).max()) for a, b in zip(worker.ask("logits"), exact, strict=True))
            found[name] |= {"p50": float(p50), "p95": float(p95), "difference": difference, "f1": worker.ask("f1")}
            worker.close()
    return found


def table(found: dict[str, dict]) -> str:
    lines = [
        "| engine | questions/s | one window, median and 95% | largest difference of a logit from the first | dev F1 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, x in found.items():
        times = f"{x['p50']:.1f} ms, {x['p95']:.1f} ms"
        lines.append(f"| {name} | {x['questions']:.1f} | {times} | {x['difference']:.2g} | {x['f1']:.2f} |")
    return "\n".join(lines)


def rows(quick: bool, precision: str) -> list[dict]:
    """For bench/run.py: minibert against the fastest peer of the same precision, then each engine's figures."""
    found = measure(1 if quick else 5, list(engines(precision)))
    result = comparison(found)
    for name, x in found.items():
        label = f"inference, {name}: 500 questions; one window, median and 95%; logits apart; dev F1"
        times = f"{x['p50']:.1f} ms, {x['p95']:.1f} ms"
        value = f"{x['questions']:.1f} questions/s; {times}; {x['difference']:.2g}; {x['f1']:.2f}"
        result.append(row(label, "-", value, None, **x))
    return result


def comparison(found: dict[str, dict]) -> list[dict]:
    """A row per precision and question (how many a second, how long one window): ours against the fastest peer's."""
    result = []
    for precision in ("fp32", "bf16"):
        ours = found.get(f"minibert-{precision}")
        peers = {n: x for n, x in found.items() if n.endswith(precision) and not n.startswith("minibert")}
        if not ours or not peers:
            continue
        for label, key, better in (("500 questions, in windows", "questions", max), ("one window", "p50", min)):
            name = better(peers, key=lambda n: peers[n][key])
            a, b = ours[key], peers[name][key]
            unit = "questions/s" if key == "questions" else "ms"
            value = f"{a:.1f} against {b:.1f} {unit} ({name})"
            met = a >= b if key == "questions" else a <= b
            result.append(row(f"inference in {precision}, {label}, against the fastest peer", "not slower", value, met))
    return result


# ------------------------------------------------------------------------------------------- in a worker
def prepare(name: str, folder: str) -> Callable:
    """For a Worker: what to measure -> seconds, milliseconds, logits or F1."""
    kind, precision = name.split("-")
    keep_freed_memory()
    model = ENGINES[kind][0](folder, precision)
    reader = qa.load_reader(device="cpu", precision="fp32")
    dev = squad.read_examples(squad.find_data("excerpt", "dev"))
    windows = some_windows(dev, QUESTIONS, reader.tokenizer)

    def answer(what: str):
        if what == "all":
            began = time.perf_counter()
            squad.predict_windows(model, windows, np.arange(len(windows)))
            return time.perf_counter() - began
        if what == "f1":
            answers = squad.apply_threshold(
                squad.predict(model, dev, squad.make_windows(dev, reader.tokenizer)), reader.null_threshold
            )
            return 100 * float(squad.question_scores(dev, answers)[1].mean())
        times, logits = [], []
        with torch.inference_mode():
            for i in range(SINGLE):
                batch = squad.collate(windows, np.array([i]))
                began = time.perf_counter()
                pair = model(batch.input_ids, batch.token_type_ids, batch.attention_mask)
                times.append(1000 * (time.perf_counter() - began))
                logits.append(torch.stack(pair).float().numpy()[..., batch.attention_mask[0].bool().numpy()])
        return times[10:] if what == "single" else logits

    return answer


def some_windows(examples: list[squad.Example], count: int, tokenizer) -> squad.Windows:
    """The windows of `count` questions drawn at random, the same ones each time."""
    order = np.random.default_rng(0).permutation(len(examples))[:count]
    return squad.make_windows([examples[i] for i in order], tokenizer)


def ours(folder: str, precision: str) -> Model:
    model, _, _ = qa.load_model(folder)
    dtype = choose_precision(precision, torch.device("cpu"))
    prepare_frozen(model.eval(), dtype)

    def run(*inputs):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return model(*inputs)

    return run


def theirs(folder: str, precision: str) -> Model:
    from transformers import AutoModelForQuestionAnswering

    dtype = choose_precision(precision, torch.device("cpu"))
    model = AutoModelForQuestionAnswering.from_pretrained(folder, dtype=dtype).eval()

    def run(input_ids, token_type_ids, attention_mask):
        found = model(input_ids=input_ids, token_type_ids=token_type_ids, attention_mask=attention_mask)
        return found.start_logits, found.end_logits

    return run


def compiled(folder: str, precision: str) -> Model:
    return torch.compile(theirs(folder, precision), dynamic=True)


def onnxruntime(folder: str, precision: str) -> Model:
    import onnxruntime

    file = f"{folder}/model.onnx"
    if precision == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(file, file := f"{folder}/int8.onnx", weight_type=QuantType.QInt8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def run(*inputs):
        found = session.run(OUTPUTS, {name: tensor.numpy() for name, tensor in zip(INPUTS, inputs, strict=True)})
        return tuple(map(torch.from_numpy, found))

    return run


def openvino(folder: str, precision: str) -> Model:
    import openvino

    model = openvino.Core().read_model(f"{folder}/model.onnx")
    if precision == "int8":
        model = quantized(model)
    settings = {
        "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16", "int8": "f32"}[precision],
    }  # fmt: skip
    model = openvino.Core().compile_model(model, "CPU", settings)

    def run(*inputs):
        found = model({name: tensor.numpy() for name, tensor in zip(INPUTS, inputs, strict=True)})
        return tuple(torch.from_numpy(found[name].copy()) for name in OUTPUTS)

    return run


def quantized(model):
    """An OpenVINO model with weights and activations in int8, their ranges taken from 100 train questions."""
    import nncf

    examples = squad.read_examples(squad.find_data("excerpt", "train"))
    windows = some_windows(examples, 100, qa.load_reader(device="cpu").tokenizer)
    batches = [squad.collate(windows, np.array([i])) for i in range(len(windows))]
    inputs = [dict(zip(INPUTS, (tensor.numpy() for tensor in batch[:3]), strict=True)) for batch in batches]
    return nncf.quantize(model, nncf.Dataset(inputs), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(inputs))


# name -> how it is built, the packages that it needs, its precisions; ONNX Runtime has no kernels for bf16 on a CPU
ENGINES = {
    "minibert": (ours, (), ("fp32", "bf16")),
    "transformers": (theirs, ("transformers",), ("fp32", "bf16")),
    "compiled": (compiled, ("transformers",), ("fp32", "bf16")),
    "onnxruntime": (onnxruntime, NEEDED, ("fp32", "int8")),
    "openvino": (openvino, ("openvino", *NEEDED), ("fp32", "bf16")),
    "openvino_quantized": (openvino, ("openvino", "nncf", *NEEDED), ("int8",)),
}


if __name__ == "__main__":
    main()
