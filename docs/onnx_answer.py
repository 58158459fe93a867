"""Answer a question with model.onnx, without PyTorch: python docs/onnx_answer.py FOLDER QUESTION CONTEXT.

FOLDER was written by minibert --export FOLDER --onnx. For texts of one window, here of at most 512 tokens.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

folder, question, context = Path(sys.argv[1]), *sys.argv[2:]
encoding = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(question, context)
rows = {"input_ids": encoding.ids, "token_type_ids": encoding.type_ids, "attention_mask": encoding.attention_mask}
session = onnxruntime.InferenceSession(folder / "model.onnx")
start, end = (logits[0] for logits in session.run(None, {name: np.array([row]) for name, row in rows.items()}))
text = [i for i, segment in enumerate(encoding.sequence_ids) if segment == 1]
score, first, last = max((start[i] + end[j], i, j) for i in text for j in text if i <= j < i + 30)
threshold = json.loads((folder / "qa.json").read_text()).get("null_threshold", 0.0)
print("" if start[0] + end[0] - score > threshold else context[encoding.offsets[first][0] : encoding.offsets[last][1]])
