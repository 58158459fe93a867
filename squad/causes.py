"""Why questions of SQuAD 2.0's dev set have no answer, as people judged (SQuAD2-CR, Lee et al. 2020)."""

import gzip
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

from squad.download import DATA
from squad.examples import DataError, Example

FILE = "dev-causes.tsv.gz"  # in data/: question id, tab, letter
CAUSES = {
    "E": "entity swapped",
    "#": "number or date swapped",
    "N": "negation",
    "A": "antonym",
    "X": "mutual exclusion",
    "I": "no information",
}


def known_causes(examples: Sequence[Example]) -> dict[str, str]:
    """Question id -> one of CAUSES' values, for those unanswerable examples where it is known; {} without the file.

    Raises DataError when the file is damaged.
    """
    path = DATA / FILE
    if not path.is_file():
        return {}
    try:
        rows = [line.split("\t") for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
        causes = {id: CAUSES[letter] for id, letter in rows}
    except (OSError, EOFError, ValueError, KeyError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    return {e.id: causes[e.id] for e in examples if not e.answers and e.id in causes}


def left_alone(answers: Mapping[str, str], causes: Mapping[str, str]) -> dict[str, dict]:
    """Cause -> how many questions have it (`total`), and of how many percent the answer is "" (`NoAns_exact`)."""
    found = defaultdict(list)
    for id, cause in causes.items():
        found[cause].append(not answers[id])
    return {
        cause: {"total": len(found[cause]), "NoAns_exact": 100 * sum(found[cause]) / len(found[cause])}
        for cause in CAUSES.values()
        if cause in found
    }
