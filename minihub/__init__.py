"""A model's files on disk: from a name to a folder, safetensors, tokenizers, atomic writes and JSON.

Nothing here knows an architecture: minibert, and any model beside it, says which tensors and which files it wants.
"""

from minihub.files import (
    CheckpointError,
    atomic_write,
    is_number,
    json_type,
    only_writer,
    parse_object,
    read_object,
    read_text,
    write_json,
)
from minihub.hub import find_model
from minihub.tensors import all_finite, check_tensors, copy_tensors, tensor_shapes
from minihub.tokenizer import check_fit, load_tokenizer

__all__ = [
    "CheckpointError", "all_finite", "atomic_write", "check_fit", "check_tensors", "copy_tensors", "find_model",
    "is_number", "json_type", "load_tokenizer", "only_writer", "parse_object", "read_object", "read_text",
    "tensor_shapes", "write_json",
]  # fmt: skip
