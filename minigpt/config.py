"""GPT2Config: the sizes of a GPT-2, under the names of `config.json`."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from minihub import CheckpointError, is_number, read_object

# Limits far beyond any GPT-2: a larger value is a mistake, and would take long before the weights are found not to fit.
_MOST = {"vocab_size": 2**24, "n_layer": 256, "n_embd": 2**20, "n_head": 2**20, "n_positions": 2**20, "n_inner": 2**20}
# Switches of transformers' GPT-2 that change the arithmetic -> the one value that minigpt computes.
_ONLY = {
    "activation_function": "gelu_new", "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False, "tie_word_embeddings": True,
}  # fmt: skip


@dataclass(frozen=True)
class GPT2Config:
    """Sizes of a GPT-2, named as in its `config.json` (Radford et al. 2019, table 2); the defaults are GPT-2 small's.

    Raises CheckpointError when a field has an impossible value; the message names the field, the value and what is
    allowed.
    """

    vocab_size: int = 50257
    n_positions: int = 1024  # the longest sequence
    n_embd: int = 768  # H
    n_layer: int = 12
    n_head: int = 12  # N; D = H / N
    n_inner: int | None = None  # of the MLP; None: 4 H
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    resid_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    eos_token_id: int = 50256

    def __post_init__(self):
        for name, most in _MOST.items():
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            self._require(
                name, (name == "n_inner" and value is None) or (whole and 1 <= value <= most), f"1 to {most:,}"
            )
        for name in ("embd_pdrop", "attn_pdrop", "resid_pdrop"):
            self._require(name, is_number(getattr(self, name)) and 0 <= getattr(self, name) < 1, "in [0, 1)")
        for name in ("layer_norm_epsilon", "initializer_range"):
            self._require(name, is_number(getattr(self, name)) and getattr(self, name) > 0, "above 0")
        self._require("n_head", self.n_embd % self.n_head == 0, f"a divisor of n_embd, {self.n_embd}")
        eos = self.eos_token_id
        self._require("eos_token_id", isinstance(eos, int) and 0 <= eos < self.vocab_size, "an id below vocab_size")

    @property
    def intermediate_size(self) -> int:
        return self.n_inner or 4 * self.n_embd

    def with_dropout(self, p: float) -> "GPT2Config":
        """The same config with all three dropout rates set to p."""
        return dataclasses.replace(self, embd_pdrop=p, attn_pdrop=p, resid_pdrop=p)

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise CheckpointError(f"config: {name} is {repr(getattr(self, name))[:60]}, expected {expected}")

    @classmethod
    def from_json(cls, path: str | Path) -> "GPT2Config":
        """Read a `config.json`. Raises CheckpointError when it is not a GPT-2's, or one that minigpt cannot compute."""
        values = read_object(path, CheckpointError)
        kind = values.get("model_type", "gpt2")
        if kind != "gpt2":
            raise CheckpointError(f"{path}: config: model_type is {repr(kind)[:60]}, minigpt reads 'gpt2'")
        for name, only in _ONLY.items():
            if values.get(name, only) != only:
                found = repr(values[name])[:60]
                raise CheckpointError(f"{path}: config: {name} is {found}, minigpt computes only {only!r}")
        known = {field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values}
        try:
            return cls(**known)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None

    def to_dict(self) -> dict:
        """The fields, with the names by which transformers finds the architecture."""
        fields = {"bos_token_id": self.eos_token_id} | dataclasses.asdict(self)  # one token begins and ends a text
        return {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], **_ONLY, **fields}
