"""A trained GPT-2 put to use: it writes the answer to a question about a text.

from minigpt.qa import load_writer
writer = load_writer("runs/NAME")
writer("Who is Vin?", "Vin is a Mistborn.")
"""

from minigpt.qa.writer import Writer, load_trained, load_writer, write_answers

__all__ = ["Writer", "load_trained", "load_writer", "write_answers"]
