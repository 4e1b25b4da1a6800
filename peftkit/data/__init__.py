"""Where rows come from: files, columns, splits, and the check of what they hold."""
