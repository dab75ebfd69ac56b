"""How much a sampler can gain on a data set, in words (spec §11)."""

UNIFORM_ABOVE = 0.9  # of N: above it a draw is nearly uniform, whatever its name
IN_PROPORTION = ("proportional", "shifted", "decayed", "rejection", "uniform_rejection")  # strategies of a sum tree
SKEWED_BELOW = 0.5  # of N: below it half of the data set or less carries the draws


def ess_in_words(ess: float) -> str:
    """What an effective sample size of the scores over N, (Σs)²/(N·Σs²) in (0, 1], says about the data set."""
    if ess > UNIFORM_ABOVE:
        return "near 1: the examples score alike, drawing is nearly uniform, and there is little to gain here"
    if ess > SKEWED_BELOW:
        return "the examples differ somewhat, so a sampler can gain something here"
    return "far below 1: the examples differ much, so which are drawn matters here"
