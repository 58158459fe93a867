"""Keys and values of earlier tokens, kept while a text is written, so that each is computed once."""

from torch import Tensor

from minigpt.config import GPT2Config


class LayerCache:
    """Keys and values of one layer, (B, N, most, D) each, of which the first `length` tokens are filled."""

    def __init__(self, most: int):
        self.most, self.length = most, 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add those of T new tokens, (B, N, T, D) each; returns all places, (B, N, most, D), zeros where empty.

        All, because products with a part of them would copy it first; the mask leaves out the empty ones.
        """
        if self.length == 0:
            B, N, _, D = k.shape
            self.k, self.v = k.new_zeros(B, N, self.most, D), v.new_zeros(B, N, self.most, D)
        end = self.length + k.size(2)
        self.k[:, :, self.length : end], self.v[:, :, self.length : end] = k, v
        self.length = end
        return self.k, self.v


class Cache:
    """The keys and values of every layer, for at most `most` tokens a row: a token's are computed once."""

    def __init__(self, config: GPT2Config, most: int):
        self.most = most
        self.layers = [LayerCache(most) for _ in range(config.n_layer)]

    def empty_after(self, T: int, S: int) -> int:
        """How many places stay empty when T new tokens make S in all. ValueError if they do not, or do not fit."""
        if (kept := self.layers[0].length) + T != S:
            raise ValueError(
                f"{kept} tokens in the cache and {T} new ones, but an attention mask of {S}: it covers both; a new "
                "text needs a new Cache"
            )
        if self.most < S:
            raise ValueError(f"{S} tokens, but this cache has room for {self.most}")
        return self.most - S
