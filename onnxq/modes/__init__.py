"""One file for each `--mode`, from the inputs to the model to write; formats and techniques lie below."""
