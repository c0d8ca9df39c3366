"""What is read off a fit: thresholds in every direction, and how well the model describes the responses."""
