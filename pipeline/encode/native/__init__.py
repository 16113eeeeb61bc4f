"""Native: a model's layers in C, compiled on the machine that runs them."""
