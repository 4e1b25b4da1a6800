"""PEFT adapters: attaching, saving, strict loading, the passport and the card."""
