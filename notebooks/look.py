"""One look for all pictures of the notebooks: readable on a light and on a dark page."""

from matplotlib import pyplot as plt

GREY, BLUE, RED = "#8a8a8a", "#4c8dd6", "#d6604d"

plt.rcParams.update({
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "legend.frameon": False,
    "text.color": GREY, "axes.labelcolor": GREY, "axes.edgecolor": GREY, "xtick.color": GREY, "ytick.color": GREY,
    "axes.spines.top": False, "axes.spines.right": False, "figure.figsize": (7, 3), "figure.dpi": 80,
    "axes.prop_cycle": plt.cycler(color=[BLUE, RED, "#5aae61", "#9970ab", "#e0a030"]), "figure.autolayout": True,
})  # fmt: skip


def heat(values, rows, columns, title=""):
    """A matrix as a grid of blue squares, with the names of its rows and columns."""
    _, axes = plt.subplots(figsize=(0.32 * len(columns) + 1.2, 0.28 * len(rows) + 1))
    axes.imshow(values, cmap="Blues", vmin=0)
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_title(title)
    plt.show()
