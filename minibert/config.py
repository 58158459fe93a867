"""BertConfig: the sizes of a BERT encoder, under the names of `config.json`."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from minibert.families import FAMILIES, Family
from minihub import CheckpointError, is_number, read_object

ACTIVATIONS = ("gelu", "relu")


class NoHeadError(CheckpointError):
    """A checkpoint has no QA head where one is required."""


@dataclass(frozen=True)
class BertConfig:
    """Sizes of a BERT encoder or a relative, named as in BERT's `config.json` (Devlin et al. 2018, section 3).

    Raises CheckpointError when a field has an impossible value; the message names the field, the value and what is
    allowed.
    """

    vocab_size: int
    hidden_size: int  # H
    num_hidden_layers: int
    num_attention_heads: int  # N; D = H / N
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    model_type: str = "bert"

    def __post_init__(self):
        self._require("model_type", self.model_type in FAMILIES, f"one of {', '.join(FAMILIES)}")
        for name in _INTEGERS:
            self._require(name, _is_int(getattr(self, name)), "a whole number")
        for name in _SIZES:
            least, most = int(self.family.segments or name != "type_vocab_size"), _MOST.get(name, 2**20)
            self._require(name, least <= getattr(self, name) <= most, f"{least} to {most:,}")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            self._require(name, is_number(getattr(self, name)) and 0 <= getattr(self, name) < 1, "in [0, 1)")
        for name in ("initializer_range", "layer_norm_eps"):
            self._require(name, is_number(getattr(self, name)) and getattr(self, name) > 0, "above 0")
        self._require("pad_token_id", 0 <= self.pad_token_id < self.vocab_size, "an id below vocab_size")
        self._require("hidden_act", self.hidden_act in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}")
        divides = self.hidden_size % self.num_attention_heads == 0
        self._require("num_attention_heads", divides, f"a divisor of hidden_size, {self.hidden_size}")

    @property
    def family(self) -> Family:
        return FAMILIES[self.model_type]

    @property
    def first_position(self) -> int:
        """The position of a sequence's first token."""
        return self.pad_token_id + 1 if self.family.positions_after_padding else 0

    @property
    def longest_sequence(self) -> int:
        """Number of tokens that there are positions for."""
        return self.max_position_embeddings - self.first_position

    def with_dropout(self, p: float) -> "BertConfig":
        """The same config with both dropout rates set to p."""
        return dataclasses.replace(self, hidden_dropout_prob=p, attention_probs_dropout_prob=p)

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            seen = repr(getattr(self, name))[:60]
            raise CheckpointError(f"config: {name} is {seen}, expected {expected}")

    @classmethod
    def from_dict(cls, values: dict) -> "BertConfig":
        """Build from the contents of a `config.json`; fields that this encoder does not have are ignored.

        Raises CheckpointError when a field is missing or asks for another architecture.
        """
        kind, positions = values.get("model_type", "bert"), values.get("position_embedding_type", "absolute")
        if not isinstance(kind, str) or kind not in FAMILIES:
            raise CheckpointError(f"config: model_type is {repr(kind)[:60]}, minibert reads {', '.join(FAMILIES)}")
        if positions != "absolute":
            raise CheckpointError(
                f"config: position_embedding_type is {repr(positions)[:60]}, minibert reads only 'absolute'"
            )
        family, known = FAMILIES[kind], {"model_type": kind}
        values = {"pad_token_id": family.pad_token_id} | values
        if not family.segments:
            known["type_vocab_size"] = 0
        for field in dataclasses.fields(cls):
            theirs = family.config_names.get(field.name, field.name)
            if theirs in values and field.name not in known:
                known[field.name] = values[theirs]
            elif field.default is dataclasses.MISSING:
                raise CheckpointError(f"config: {theirs} is missing, expected a whole number")
        return cls(**known)

    @classmethod
    def from_json(cls, path: str | Path) -> "BertConfig":
        """Read a `config.json` file. Raises CheckpointError when it is not a JSON object or not a BERT's config."""
        values = read_object(path, CheckpointError)
        try:
            return cls.from_dict(values)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None

    def to_dict(self) -> dict:
        """The fields under the family's names, with the class name by which transformers finds the architecture."""
        family = self.family
        fields = {family.config_names.get(name, name): value for name, value in dataclasses.asdict(self).items()}
        return {**fields, "architectures": [family.architecture]}


_SIZES = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "max_position_embeddings", "type_vocab_size",
)  # fmt: skip
# Limits far beyond any BERT: a larger value is a mistake, and would take long before the weights are found not to fit.
_MOST = {"num_hidden_layers": 256, "vocab_size": 2**24}
_INTEGERS = (*_SIZES, "pad_token_id")


def _is_int(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
