"""A trained model in use: sources of frames, prediction on whole frames, evaluation, export."""
