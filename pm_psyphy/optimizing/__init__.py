"""An Objective and an optax transformation in; where searches for its minimum ended comes out."""
