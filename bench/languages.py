"""What alignment loses in each language, for three kinds of tokenizers: python bench/languages.py FILE...

Each file is a SQuAD file in one language; its name is the label. WordPiece is MiniLM's (English, without accents).
SentencePiece (Unigram with Metaspace, as in XLM-R) and byte-level BPE (as in RoBERTa) are trained here on the contexts
of all files, as no multilingual tokenizer can be bundled: this measures the arithmetic of offsets, not a vocabulary.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))
import minibert
import squad
from squad.audit.alignment import audit

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
SIZE = 32_000


def sentence_piece(texts: Sequence[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        texts, trainers.UnigramTrainer(vocab_size=SIZE, special_tokens=SPECIAL, unk_token="<unk>")
    )
    return tokenizer


def byte_level(texts: Sequence[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=SIZE, special_tokens=SPECIAL, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def shares(examples: Sequence[squad.Example], tokenizer: Tokenizer) -> Iterator[str]:
    """Of all answers: read back exactly, cut or widened by a token's edge, not found at all; tokens a context."""
    windows = squad.make_windows(examples, tokenizer)
    causes, answers = audit(examples, windows, max_answer_tokens=10**6)
    total = sum(causes.values())
    yield f"{causes['exact'] / total:.2%}"
    yield f"{causes['sub-word boundary'] / total:.2%}"
    yield f"{(causes['truncated'] + causes['no token']) / total:.2%}"
    yield f"{squad.official_metrics(examples, answers)['exact']:.2f}"
    yield f"{windows.contexts.lengths.mean():.0f}"


def main() -> None:
    files = {Path(name).name.split(".json")[0]: squad.read_examples(name, lambda _: None) for name in sys.argv[1:]}
    contexts = sorted({e.context for examples in files.values() for e in examples})
    kinds = {
        "WordPiece (MiniLM)": minibert.load_tokenizer("minilm"),
        "SentencePiece": sentence_piece(contexts),
        "byte-level BPE": byte_level(contexts),
    }
    print("| file | tokenizer | exact | wider | lost | ceiling EM | tokens a context |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, examples in tqdm(files.items(), leave=False):
        for kind, tokenizer in kinds.items():
            print(f"| {name} | {kind} | {' | '.join(shares(examples, tokenizer))} |", flush=True)


if __name__ == "__main__":
    main()
