"""What can go wrong, one module each."""
