"""What the tests of GPT-2 share: a config of odd sizes, left-padded rows, comparisons, and flags of small runs."""

import torch

import minigpt
import minirun
import train_gpt
from minigpt.weights import TRANSPOSED

ODD = minigpt.GPT2Config(
    vocab_size=31, n_positions=13, n_embd=12, n_layer=2, n_head=3, n_inner=17, eos_token_id=30, initializer_range=0.3
)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def stored_gradients(model):
    """The gradients under their names, each matrix the way round that checkpoints have."""
    return {k: p.grad.T if k.endswith(TRANSPOSED) else p.grad for k, p in model.named_parameters()}


def left_padded(vocabulary, B, T, seed):
    """(B, T) input_ids and attention_mask; row i has i tokens of padding."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(0, vocabulary, (B, T), generator=generator)
    attention_mask = (torch.arange(T) >= torch.arange(B)[:, None]).long()
    return input_ids, attention_mask


def flags(tiny, output, *more):
    file = str(tiny / "squad.json")
    sizes = ("--max-length", "140", "--max-answer-tokens", "8", "--batch-size", "4", "--log-every", "1")
    return ["--train", file, "--dev", file, "--output", str(output), *sizes, "--precision", "fp32", *more]


def make_run(gpt_text, tiny, tmp_path, *more):
    """A train_gpt.Run as main() makes it, with the model in training mode."""
    arguments = flags(tiny, tmp_path / "run", "--model", str(gpt_text / "model"), *more)
    options = minirun.parse_command(arguments, train_gpt.Options, "train_gpt.py", "", ()).options.resolved()
    run = train_gpt.prepare(options, None, minirun.Processes(), torch.device("cpu"))
    run.model.train()
    return run
