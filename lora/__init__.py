"""Low-rank adaptation of a model's linear layers, put in from outside, and adapters in PEFT's file layout."""

from lora.adapter import AdapterError, base_of, load_adapter, save_adapter
from lora.inject import add_lora, check_moved, freeze, lora_layers, merge, remove_lora, unmerge
from lora.linear import LoRALinear

__all__ = [
    "AdapterError", "LoRALinear", "add_lora", "base_of", "check_moved", "freeze", "load_adapter", "lora_layers",
    "merge", "remove_lora", "save_adapter", "unmerge",
]  # fmt: skip
