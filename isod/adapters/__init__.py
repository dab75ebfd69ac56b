"""The samplers in the training loops of other libraries. Each module imports its library; isod imports none of them."""
