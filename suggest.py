"""train.py --suggest-max-length: how long the data of the options is, and which window length fits it."""

import minibert
import squad
import train
from options import Options


def main(options: Options) -> int:
    """Print the table, for max lengths that the model has positions for; returns 0."""
    revision = options.revision or None
    tokenizer = minibert.load_tokenizer(options.model, revision)
    config = minibert.BertConfig.from_json(minibert.find_model(options.model, revision) / "config.json")
    most = config.longest_sequence
    max_lengths = [length for length in squad.MAX_LENGTHS if length <= most] or [most]
    measured = {}
    for split in ("train", "dev"):
        data = train.load_data(options, split, tokenizer)
        sizes = (options.window_overlap, options.max_question_tokens, max_lengths)
        measured[split] = squad.measure_lengths(data.examples, data.windows, *sizes)
    print(squad.lengths_table(measured))
    return 0
