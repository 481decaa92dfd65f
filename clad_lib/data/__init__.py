"""Images, labels and which of them are normal."""
