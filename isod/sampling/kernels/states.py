"""What ``last_step`` says of an example beside the step that scored it last."""

UNSCORED = -1  # it has no score yet
INELIGIBLE = -2  # it may not be drawn
