"""The two sides of a training comparison: train.py's own step, and transformers + PEFT in the loop of run_qa.

Each side works in a process of its own, so that neither profits from the other's settings; while one works the other
waits. Both train on the same windows with LoRA rank 8 on query and value, AdamW and clipping.
"""

import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import minibert
import minirun
import squad
import train
from bench.machine import wait
from minihub import find_model
from minirun.hardware import peak_bytes

BERT_BASE = {
    "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "max_position_embeddings": 512,
}  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """What one figure is measured with.

    pad_to 0: to the longest of the batch. like_lengths: their batches are ours, windows of like lengths together,
    instead of random ones, which hold more padding. compiled: torch.compile for any shape, of their model.
    """

    side: str
    model: str = "minilm"
    batch: int = 16
    precision: str = "bf16"
    dropout: float = 0.0
    pad_to: int = 0
    like_lengths: bool = False
    compiled: bool = False
    device: str = "cpu"


def prepare(setup: Setup) -> Callable[[list[int]], tuple[float, int]]:
    """For a Worker: window numbers -> seconds of training on them once, and the peak memory in bytes.

    The memory is that of tensors on a GPU, else that of the process.
    """
    data, device = load_windows(), torch.device(setup.device)
    build = {"ours": build_ours, "theirs": build_theirs}[setup.side]
    steps = build(data, setup, device)
    # The longest batch takes all memory that will be needed; other lengths, as a compiler compiles anew for the second.
    order = np.argsort(-data.windows.lengths)
    for first in (0, len(order) // 2, len(order) - setup.batch):
        steps(order[first : first + setup.batch])

    def train_on(window_ids: list[int]) -> tuple[float, int]:
        wait(device)
        start = time.perf_counter()
        steps(np.array(window_ids, np.int64))
        wait(device)
        seconds = time.perf_counter() - start
        peak = peak_bytes(resource.getrusage(resource.RUSAGE_SELF))
        return seconds, torch.cuda.max_memory_allocated() if device.type == "cuda" else peak

    return train_on


def load_windows() -> squad.Dataset:
    return squad.load_dataset(squad.find_data("excerpt", "train"), minibert.load_tokenizer("minilm"))


def config_of(model: str) -> minibert.BertConfig:
    return minibert.BertConfig.from_json(find_model(model) / "config.json")


def random_bert_base(folder: Path) -> Path:
    """A checkpoint of bert-base's shape with random weights, with MiniLM's tokenizer, which has BERT's vocabulary."""
    torch.manual_seed(0)
    minibert.save_pretrained(minibert.BertForQuestionAnswering(minibert.BertConfig(**BERT_BASE)), folder)
    minibert.load_tokenizer("minilm").save(str(folder / "tokenizer.json"))
    return folder


def our_run(data: squad.Dataset, options: train.Options, device: torch.device) -> train.Run:
    """What train.py's own step takes, for training on `data`."""
    minirun.keep_freed_memory()
    torch.manual_seed(options.seed)
    model = train.load_model(options, None)[0].train().to(device)
    dtype = minirun.choose_precision(options.precision, device)
    minirun.prepare_frozen(model, dtype)
    folder, alone = Path(tempfile.gettempdir()), minirun.Processes()
    return train.Run(options, folder, model, None, data, None, None, {}, {}, device, dtype, alone)


def our_batches(data: squad.Dataset, window_ids: np.ndarray, size: int) -> list[np.ndarray]:
    """These windows in batches as train.py makes them."""
    lengths = data.windows.lengths[window_ids]
    return [window_ids[at] for at in squad.training_batches(lengths, size, seed=0, epoch=0)]


def build_ours(data: squad.Dataset, setup: Setup, device: torch.device):
    """A function of window numbers that takes train.py's own steps."""
    options = train.Options(
        model=setup.model, lora_targets="attention", precision=setup.precision, batch_size=setup.batch,
        dropout=setup.dropout,
    )  # fmt: skip
    run = our_run(data, options, device)
    optimizer = minirun.make_optimizer(run.model, options.weight_decay)
    scaler = torch.amp.GradScaler(device.type, enabled=False)

    def steps(window_ids: np.ndarray) -> None:
        for ids in our_batches(data, window_ids, setup.batch):
            train.training_step(run, run.model, ids, optimizer, scaler, 1e-3)

    return steps


def their_model(name: str, dropout: float) -> torch.nn.Module:
    """transformers' model with PEFT's adapters of rank 8 on query and value; PEFT's class is the outer one."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForQuestionAnswering
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    model = AutoModelForQuestionAnswering.from_pretrained(find_model(name), **rates)
    config = LoraConfig(task_type="QUESTION_ANS", r=8, lora_alpha=16, target_modules=["query", "value"])
    return get_peft_model(model, config)


def build_theirs(data: squad.Dataset, setup: Setup, device: torch.device):
    """A function of window numbers: transformers' model, PEFT's adapters, the loop of run_qa_no_trainer.py."""
    model = their_model(setup.model, setup.dropout).train().to(device)
    if setup.compiled:
        model.compile(dynamic=True)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)

    def steps(window_ids: np.ndarray) -> None:
        batches = np.split(window_ids, range(setup.batch, len(window_ids), setup.batch))
        if setup.like_lengths:
            batches = our_batches(data, window_ids, setup.batch)
        for ids in batches:
            batch = squad.collate(data.windows, ids, multiple=1)
            padding = (0, max(0, setup.pad_to - batch.input_ids.size(1)))
            inputs = [torch.nn.functional.pad(x, padding).to(device) for x in batch[:3]]
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=setup.precision == "bf16"):
                loss = model(
                    input_ids=inputs[0], token_type_ids=inputs[1], attention_mask=inputs[2],
                    start_positions=batch.start_positions.to(device), end_positions=batch.end_positions.to(device),
                ).loss  # fmt: skip
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return steps


def training_flops(config: minibert.BertConfig, lengths: np.ndarray, rank: int = 8) -> float:
    """FLOPs of one training pass over windows of these lengths: real tokens only, LoRA on query and value.

    A product costs 2 FLOPs per weight and token in the forward pass, as many for the gradient of its input, and as many
    for that of its weights if they train. Below the first adapter no gradient is needed: layer 0's query, key and value
    get none for their input, and its keys none at all. Scores and weighted sums cost 4 T H per token, and twice that in
    the backward pass.
    """
    H, I, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    tokens, squares = float(lengths.sum()), float((lengths.astype(float) ** 2).sum())
    linears = 2 * layers * 2 * (4 * H * H + 2 * H * I) * tokens
    adapters = 3 * layers * 2 * 2 * (2 * rank * H) * tokens  # A and B of two linears
    attention = 3 * layers * 4 * H * squares
    head = 3 * 2 * 2 * H * tokens
    unneeded = 2 * 3 * H * H * tokens + 2 * (2 * rank * H) * tokens + 2 * H * squares  # in layer 0
    return linears + adapters + attention + head - unneeded
