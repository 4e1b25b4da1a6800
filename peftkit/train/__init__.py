"""Training: TRL's SFTTrainer, its arguments, and what is watched."""
