"""Methods x folds: models, predictions, scores, and the tables that set them side by side."""
