"""One self-contained HTML page about a run of train.py: python -m squad.report RUN

Scores, training curves, threshold, calibration, scores by kind of question, and the worst errors in their texts.
"""
