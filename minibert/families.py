"""How BERT's relatives differ from it: names in config.json and checkpoints, positions, segments.

All of them are the encoder of model.py. RoBERTa (Liu et al. 2019, arXiv 1907.11692) and XLM-R (Conneau et al. 2019,
arXiv 1911.02116) count positions from padding_idx + 1 and have one segment (token type); DistilBERT (Sanh et al. 2019,
arXiv 1910.01108) has no segments, half as many layers, and other names.
"""

from dataclasses import dataclass, field

# our name -> the checkpoint's name within the encoder, without ".weight" and ".bias"
BERT_EMBEDDINGS = {
    "word": "embeddings.word_embeddings",
    "position": "embeddings.position_embeddings",
    "token_type": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
}
# the same within a layer of the encoder
BERT_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "output_norm": "output.LayerNorm",
}
DISTILBERT_LAYER = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "attention_output": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "intermediate": "ffn.lin1",
    "output": "ffn.lin2",
    "output_norm": "output_layer_norm",
}


@dataclass(frozen=True)
class Family:
    """One row of the table."""

    prefix: str  # of the encoder's keys in checkpoints, with its dot
    architecture: str  # transformers' class for question answering
    layers: str = "encoder.layer"
    layer_names: dict[str, str] = field(default_factory=lambda: BERT_LAYER)
    positions_after_padding: bool = False  # the first token has position pad_token_id + 1, not 0
    segments: bool = True
    pad_token_id: int = 0  # where config.json does not say
    config_names: dict[str, str] = field(default_factory=dict)  # our field -> config.json's, where they differ
    unused: tuple[str, ...] = ("cls.", "pooler.")  # prefixes of weights that question answering does not use


FAMILIES = {
    "bert": Family("bert.", "BertForQuestionAnswering"),
    "roberta": Family(
        "roberta.", "RobertaForQuestionAnswering", positions_after_padding=True, pad_token_id=1,
        unused=("lm_head.", "pooler."),
    ),
    "xlm-roberta": Family(
        "roberta.", "XLMRobertaForQuestionAnswering", positions_after_padding=True, pad_token_id=1,
        unused=("lm_head.", "pooler."),
    ),
    "distilbert": Family(
        "distilbert.", "DistilBertForQuestionAnswering", layers="transformer.layer", layer_names=DISTILBERT_LAYER,
        segments=False, unused=("vocab_", "pre_classifier."),
        config_names={
            "hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
            "intermediate_size": "hidden_dim", "hidden_act": "activation", "hidden_dropout_prob": "dropout",
            "attention_probs_dropout_prob": "attention_dropout",
        },
    ),
}  # fmt: skip
