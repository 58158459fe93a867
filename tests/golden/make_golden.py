"""Makes the golden files beside it with transformers and peft: pip install -e '.[bench]', then run this.

tiny/       a random BertForQuestionAnswering of odd sizes, saved by transformers
tiny.safetensors    inputs with padding, and what transformers computes of them: logits, loss, every gradient
minilm.safetensors  a fixed random head on the MiniLM weights, inputs, and transformers' logits
official.json.gz    three systems' predictions on data/dev.json.gz, null odds with many ties, and what the official
            evaluate-v2.0.py prints for them (made apart: that script is not part of this project)
gpt2/, gpt2.safetensors    a tiny GPT-2: logits, loss, gradients and the tokens it writes
families/   the same as tiny/ and tiny.safetensors for RoBERTa, XLM-R and DistilBERT
adapter/    a PEFT adapter (rsLoRA, rank_pattern, alpha_pattern) on tiny/, and logits.safetensors with PEFT's logits
"""

import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    DistilBertConfig,
    DistilBertForQuestionAnswering,
    RobertaConfig,
    RobertaForQuestionAnswering,
    XLMRobertaConfig,
    XLMRobertaForQuestionAnswering,
)

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))
from minihub import find_model  # noqa: E402


def random_inputs(vocabulary: int, B: int, T: int) -> dict[str, torch.Tensor]:
    """B rows of T tokens, all but the first with padding at the end, a question and a context each."""
    input_ids = torch.randint(1, vocabulary, (B, T))
    lengths = torch.tensor([T - 2 * i for i in range(B)])[:, None]
    attention_mask = (torch.arange(T) < lengths).long()
    token_type_ids = ((torch.arange(T) >= T // 3) & (attention_mask == 1)).long()
    return {
        "input_ids": input_ids * attention_mask,
        "token_type_ids": token_type_ids.expand(B, T).contiguous(),
        "attention_mask": attention_mask,
    }


def tiny() -> BertForQuestionAnswering:
    config = BertConfig(
        vocab_size=37, hidden_size=15, num_hidden_layers=2, num_attention_heads=3, intermediate_size=22,
        max_position_embeddings=11, type_vocab_size=2, initializer_range=0.5,
    )  # fmt: skip
    model = BertForQuestionAnswering(config).eval()
    with torch.no_grad():  # biases and norms start at 0 and 1: move them, so that mixing them up shows
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


ROBERTA = {
    "vocab_size": 37, "hidden_size": 15, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 22,
    "max_position_embeddings": 13, "type_vocab_size": 1, "initializer_range": 0.5, "pad_token_id": 1, "bos_token_id": 0,
    "eos_token_id": 2,
}  # fmt: skip
RELATIVES = {
    "roberta": lambda: RobertaForQuestionAnswering(RobertaConfig(**ROBERTA)),
    "xlm-roberta": lambda: XLMRobertaForQuestionAnswering(XLMRobertaConfig(**ROBERTA)),
    "distilbert": lambda: DistilBertForQuestionAnswering(
        DistilBertConfig(
            vocab_size=37, dim=15, n_layers=2, n_heads=3, hidden_dim=22, max_position_embeddings=11,
            initializer_range=0.5, qa_dropout=0.0,
        )
    ),
}  # fmt: skip


def relative(name: str) -> None:
    """A tiny random model of the family, and what transformers computes with it: logits, loss, every gradient."""
    model = RELATIVES[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(HERE / "families" / name)
    inputs = random_inputs(37, B=3, T=7)
    pad, mask = model.config.pad_token_id, inputs["attention_mask"].bool()
    # RoBERTa finds its positions by looking for padding's id, which must stand nowhere else
    inputs["input_ids"] = torch.where(mask, inputs["input_ids"].clamp(min=3), pad)
    labels = {"start_positions": torch.tensor([0, 2, 1]), "end_positions": torch.tensor([0, 4, 1])}
    known = {k: inputs[k] for k in ("input_ids", "attention_mask")}  # of one segment or none
    output = model(**known)
    # over real tokens only: what padding's own logits are is nobody's business
    start, end = (logits.masked_fill(~mask, -math.inf) for logits in (output.start_logits, output.end_logits))
    loss = (F.cross_entropy(start, labels["start_positions"]) + F.cross_entropy(end, labels["end_positions"])) / 2
    loss.backward()
    results = {"start_logits": output.start_logits, "end_logits": output.end_logits, "loss": loss}
    gradients = {f"gradient.{key}": p.grad for key, p in model.named_parameters() if p.grad is not None}
    tensors = {**inputs, **labels, **results, **gradients}
    save_file({k: v.detach().contiguous() for k, v in tensors.items()}, HERE / "families" / f"{name}.safetensors")


def main() -> None:
    torch.manual_seed(0)
    model = tiny()
    model.save_pretrained(HERE / "tiny")
    inputs = random_inputs(37, B=3, T=7)
    labels = {"start_positions": torch.tensor([0, 2, 1]), "end_positions": torch.tensor([0, 4, 1])}
    output = model(**inputs, **labels)
    output.loss.backward()
    results = {"start_logits": output.start_logits, "end_logits": output.end_logits, "loss": output.loss}
    gradients = {f"gradient.{name}": p.grad for name, p in model.named_parameters()}
    tensors = {**inputs, **labels, **results, **gradients}
    save_file({k: v.detach().contiguous() for k, v in tensors.items()}, HERE / "tiny.safetensors")

    config = LoraConfig(
        task_type="QUESTION_ANS", r=3, lora_alpha=5, use_rslora=True, target_modules=["query", "output.dense"],
        rank_pattern={"layer.1.attention.self.query": 2}, alpha_pattern={r"layer\.0\.output\.dense": 7},
    )  # fmt: skip
    adapted = get_peft_model(tiny_again(), config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or "qa_outputs.modules_to_save" in name:
                parameter.normal_()
    adapted.save_pretrained(HERE / "adapter")
    (HERE / "adapter" / "README.md").unlink(missing_ok=True)
    saved = HERE / "adapter" / "adapter_config.json"
    saved.write_text(saved.read_text().replace(str(HERE / "tiny"), "tiny"))
    with torch.no_grad():
        # peft 0.21.2's own forward for question answering drops token_type_ids: ask the model inside
        output = adapted.eval().get_base_model()(**inputs)
    logits = {"start_logits": output.start_logits, "end_logits": output.end_logits}
    save_file({k: v.contiguous() for k, v in logits.items()}, HERE / "adapter" / "logits.safetensors")

    minilm = BertForQuestionAnswering.from_pretrained(find_model("minilm")).eval()
    head = {"qa_outputs.weight": torch.randn(2, 384), "qa_outputs.bias": torch.randn(2)}
    minilm.load_state_dict(head, strict=False)
    inputs = random_inputs(30522, B=3, T=61)
    with torch.no_grad():
        output = minilm(**inputs)
    tensors = {**head, **inputs, "start_logits": output.start_logits, "end_logits": output.end_logits}
    save_file({k: v.contiguous() for k, v in tensors.items()}, HERE / "minilm.safetensors")


def gpt2() -> None:
    """A tiny GPT-2: logits, loss, gradients and what it writes when it is greedy; its last row has left padding."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=31, n_positions=13, n_embd=12, n_layer=2, n_head=3, n_inner=17, bos_token_id=30, eos_token_id=30,
        embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0, initializer_range=0.3,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    model.save_pretrained(HERE / "gpt2")
    (HERE / "gpt2" / "generation_config.json").unlink()
    input_ids = torch.randint(0, 30, (3, 7))
    attention_mask = torch.ones_like(input_ids)
    attention_mask[2, :3] = 0
    after_padding = F.pad(attention_mask, (1, 0))[:, :-1] == 0  # nothing but padding predicts a row's first token
    labels = input_ids.masked_fill(after_padding, -100)
    positions = (attention_mask.cumsum(1) - 1).clamp(min=0)
    output = model(input_ids, attention_mask=attention_mask, position_ids=positions, labels=labels)
    output.loss.backward()
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 30, "eos_token_id": 19}
    written = model.generate(input_ids, attention_mask=attention_mask, **settings)[:, 7:]
    gradients = {f"gradient.{name}": p.grad for name, p in model.named_parameters()}
    tensors = {
        "input_ids": input_ids, "attention_mask": attention_mask, "logits": output.logits, "loss": output.loss,
        "written": written, **gradients,
    }  # fmt: skip
    save_file({k: v.detach().contiguous() for k, v in tensors.items()}, HERE / "gpt2.safetensors")


def tiny_again() -> BertForQuestionAnswering:
    return BertForQuestionAnswering.from_pretrained(HERE / "tiny").eval()


if __name__ == "__main__":
    main()
    for number, name in enumerate(RELATIVES):
        torch.manual_seed(number)
        relative(name)
    torch.manual_seed(9)
    gpt2()
