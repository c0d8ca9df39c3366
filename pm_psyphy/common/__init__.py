"""What models of observers and fitting share: arrays that are checked on their way in, and functions of rows."""
