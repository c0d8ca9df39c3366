"""What a fit gives back: estimates by name and draws, which evaluate, save and describe themselves."""
