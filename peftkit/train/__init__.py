"""Training: a trainer for each kind of model, its losses and optimizers, and what is watched."""
