"""A PyMC model in; an `Objective`, its negative log posterior and gradient as compiled functions, comes out."""
