"""What the data pipeline loses before any model is asked.

python -m squad.audit FILE           answers that the tokens do not give back, by cause
python -m squad.audit.lengths FILE   how long the texts are, and which window length fits them
"""
