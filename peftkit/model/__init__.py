"""Tokenizer, base model, quantization, fingerprint and the embedded assets."""
