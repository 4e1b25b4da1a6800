"""The built-in recipes: one module per task, registered as any plugin is."""
