"""Changes adapters and base models: combines, shrinks, extracts, compares."""
