"""The blocks of figures in README.md and docs/*.md, a module for what each is about."""
