"""The verbs that fit: one model, one model to many data sets, and compilation before there are data."""
