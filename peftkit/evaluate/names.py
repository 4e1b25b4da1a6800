"""What each metric is called, wherever a person reads it."""

# metric -> name in tables, name within a sentence; all of them are shares of the rows, and more is better
METRICS = {
    "accuracy": ("Accuracy (generated answers)", "Accuracy"),
    "macro_f1": ("Macro-F1", "Macro-F1"),
    "likelihood_accuracy": ("Accuracy (by label likelihood)", "Accuracy by label likelihood"),
    "valid_answers": ("Valid answers", "The share of valid answers"),
}
