"""MLflow, written by one writer: the driver of a study."""
