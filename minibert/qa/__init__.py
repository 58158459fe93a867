"""A trained model put to use: in a notebook, from the command line (`python -m minibert.qa`), and as a page.

from minibert.qa import load_reader
reader = load_reader()
reader("Who is Vin?", "Vin is a Mistborn.")
"""

from minibert.qa.load import export, load_model, load_reader, window_sizes

__all__ = ["export", "load_model", "load_reader", "window_sizes"]
