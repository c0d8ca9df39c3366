"""How sure an estimate is: Laplace, the bootstrap, cross-validation and sampling."""
